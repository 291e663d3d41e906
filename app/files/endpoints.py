"""HTTP on uploaded files."""

import asyncio
from functools import partial
from pathlib import Path as FilePath
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, BackgroundTasks, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from app.artifacts.download import FileDownload, not_modified
from app.body_limit import MAX_BODY_BYTES
from app.dependencies import PrincipalDep, SessionDep, SessionsDep, SettingsDep
from app.files import service
from app.files.form import UploadForm, invalid_form
from app.files.schemas import FILE_ID, FILE_ID_PATTERN, UPLOAD_BODY, FileDeleted, FileList, FileResource
from app.openapi import problems
from app.problems import Problem

IDLE_SECONDS = 30.0
"""A client that sends nothing for so long has gone away."""

PATH = "/v1/files"

router = APIRouter(prefix=PATH, tags=["Files"])

FileId = Annotated[str, Path(description="The file's id.", examples=[FILE_ID])]


@router.post(
    "",
    status_code=201,
    summary="Upload a file",
    responses=problems(408, 413, 415, 507),
    openapi_extra={"requestBody": UPLOAD_BODY},
)
async def upload(
    request: Request,
    response: Response,
    settings: SettingsDep,
    sessions: SessionsDep,
    principal: PrincipalDep,
) -> FileResource:
    """A model or text for jobs: `"model": "file_…"`, or `"source": "file_…"`.

    The file appears when all of it has come and it is what its name says. Of a model, safetensors, config and
    tokenizer are used; pickles are not read.
    """
    declared = request.headers.get("content-length", "")
    size = max(0, int(declared) - MAX_BODY_BYTES) if declared.isdecimal() else 0
    with await run_in_threadpool(service.begin, sessions, settings, principal, size) as incoming:
        form = UploadForm(request.headers.get("content-type", ""), incoming.write)
        await _receive(request, form)
        await run_in_threadpool(request.state.authenticate)  # again: it may have taken hours
        name = form.finish()
        finish = partial(service.finish, sessions, settings, principal, incoming, name, form.fields.get("sha256"))
        # Not in the threads that all requests share: archives that take minutes to unpack would come to hold them.
        file = await to_thread.run_sync(finish, limiter=request.app.state.upload_checkers)
    response.headers["Location"] = str(request.url_for("get_file", file_id=file.id).path)
    return FileResource.of(file)


@router.get("", summary="List files")
def list_files(
    session: SessionDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Files on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=FILE_ID_PATTERN, description="`last_id` of the page before.")
    ] = None,
) -> FileList:
    """The project's files, newest first."""
    files, more = service.page(session, principal.project, limit=limit, after=after)
    data = [FileResource.of(file) for file in files]
    return FileList.of(data, more=more)


@router.get("/{file_id}", summary="Get a file", responses=problems(404))
def get_file(file_id: FileId, session: SessionDep, principal: PrincipalDep) -> FileResource:
    """What is known of one file."""
    return FileResource.of(service.get(session, principal.project, file_id))


@router.head("/{file_id}/content", include_in_schema=False)
@router.get(
    "/{file_id}/content",
    summary="Download a file",
    response_class=Response,
    responses={
        **problems(404, 410, 416),
        200: {"description": "The file.", "content": {"application/octet-stream": {}}},
        206: {"description": "The part that the `Range` header asks for."},
        304: {"description": "The file is the one that `If-None-Match` names."},
    },
)
def download(
    file_id: FileId, request: Request, session: SessionDep, settings: SettingsDep, principal: PrincipalDep
) -> Response:
    """The file's bytes, as they came. Resume with `Range` and `If-Range`; the ETag is the file's sha256."""
    file = service.get(session, principal.project, file_id)
    if not_modified(request.headers, file.sha256):
        return Response(status_code=304, headers={"ETag": f'"{file.sha256}"'})
    return FileDownload(FilePath(service.path_of(settings, file)), file, request.headers, name=file.name)


@router.delete("/{file_id}", summary="Delete a file", responses=problems(404, 409))
def delete(
    file_id: FileId,
    background: BackgroundTasks,
    session: SessionDep,
    settings: SettingsDep,
    principal: PrincipalDep,
) -> FileDeleted:
    """Removes a file for good. One that a queued or running job uses stays."""
    service.delete(session, principal, file_id)
    background.add_task(service.remove, settings, file_id)  # runs after the answer, and so after the commit
    return FileDeleted(id=file_id)


async def _receive(request: Request, form: UploadForm) -> None:
    """Reads the body. Raises a 408 `Problem` for a client that falls silent, or a 422 one that goes away."""
    body = request.stream()
    try:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(body, None)
            if piece is None:
                return
            await run_in_threadpool(form.feed, piece)
    except ClientDisconnect as error:
        raise invalid_form("The client went away before the form ended.") from error
    except TimeoutError as error:
        raise Problem(
            "upload-too-slow",
            "The upload has come to a halt",
            408,
            f"Nothing has come for {IDLE_SECONDS:g} seconds. Send it again.",
            headers={"Connection": "close"},
        ) from error
