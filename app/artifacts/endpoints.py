"""HTTP on artifacts."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from app.artifacts import service
from app.artifacts.download import FileDownload, not_modified
from app.artifacts.schemas import ArtifactList, ArtifactResource
from app.dependencies import PrincipalDep, SessionDep, StoreDep
from app.jobs import service as jobs_service
from app.jobs.endpoints import JobId
from app.openapi import problems

router = APIRouter(prefix="/v1/jobs/{job_id}/artifacts", tags=["Artifacts"])


@router.get("", summary="List a job's artifacts", responses=problems(404))
def list_artifacts(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> ArtifactList:
    """The files that a job has published."""
    job = jobs_service.get(session, principal.project, job_id)
    data = [ArtifactResource.of(artifact) for artifact in service.of_job(session, job)]
    return ArtifactList.of(data)


@router.head("/{name:path}", include_in_schema=False)
@router.get(
    "/{name:path}",
    summary="Download an artifact",
    response_class=Response,
    responses={
        **problems(404, 410, 416),
        200: {"description": "The file.", "content": {"application/octet-stream": {}}},
        206: {"description": "The part that the `Range` header asks for."},
        307: {"description": "Where the file is, for some minutes; that address needs no key."},
        304: {"description": "The file is the one that `If-None-Match` names."},
    },
)
def download(
    job_id: JobId,
    name: Annotated[str, Path(description="The artifact's name.", examples=["model.safetensors"])],
    request: Request,
    session: SessionDep,
    store: StoreDep,
    principal: PrincipalDep,
) -> Response:
    """The file's bytes, or a redirect to them. A file never changes: resume with `Range`.

    The ETag is its sha256, but where an object store answers, which has tags of its own.
    """
    job = jobs_service.get(session, principal.project, job_id)
    artifact = service.named(session, job, name)
    if not_modified(request.headers, artifact.sha256):
        return Response(status_code=304, headers={"ETag": f'"{artifact.sha256}"'})
    found = service.find(store, job, artifact)
    if isinstance(found, str) and request.method == "HEAD":  # what a URL is signed for is GET alone
        headers = {
            "Content-Length": str(artifact.bytes),
            "Accept-Ranges": "bytes",
            "ETag": f'"{artifact.sha256}"',
            "Cache-Control": "no-store",
        }
        return Response(media_type=artifact.media_type, headers=headers)
    if isinstance(found, str):
        return RedirectResponse(found, headers={"Cache-Control": "no-store"})
    return FileDownload(found, artifact, request.headers)
