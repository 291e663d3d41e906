"""Rules on uploaded files."""

import logging
import os
import re
import shutil
from collections.abc import Sequence

from sqlalchemy.orm import Session, sessionmaker

from app.audit import service as audit
from app.db import DATABASE_DOWN, utcnow
from app.files import archive, content, layout, repository
from app.files.incoming import Incoming, check_disk, lock
from app.files.models import FileType, UploadedFile
from app.files.room import Room
from app.ids import is_id
from app.keys import repository as keys
from app.keys.service import Principal
from app.problems import Problem
from app.settings import Settings
from eggs_core.errors import ModelNotFound, TextNotFound
from eggs_core.spec import PruneSpec

_MAX_NAME_BYTES = 255
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

logger = logging.getLogger(__name__)


def begin(sessions: sessionmaker[Session], settings: Settings, principal: Principal, declared: int) -> Incoming:
    """An upload of about `declared` bytes. Raises a 413 or 507 `Problem` for one that has no chance."""
    with sessions() as session:
        room = Room.of(session, settings, principal)
    room.check_file(declared)
    settings.files_dir.mkdir(parents=True, exist_ok=True)
    check_disk(settings.files_dir, declared, settings.disk_reserve_bytes)
    return Incoming(settings, room)


def finish(
    sessions: sessionmaker[Session],
    settings: Settings,
    principal: Principal,
    incoming: Incoming,
    name: str,
    expected_sha256: str | None,
) -> UploadedFile:
    """Checks what has come and makes it visible. Raises a 413, 422 or 507 `Problem` or an `EggsError`."""
    name = _plain(name)
    kind = content.kind_of(name)
    incoming.complete()
    _check_sha256(incoming.sha256, expected_sha256)
    stored = incoming.bytes
    if kind.type is FileType.MODEL:
        model = incoming.folder / layout.MODEL
        archive.unpack(incoming.path, model, incoming.room.upload_bytes, settings.disk_reserve_bytes)
        shutil.rmtree(model.with_name(f"{model.name}.unpacking"), ignore_errors=True)
        content.check_model(model)
        stored += sum(file.stat().st_size for file in model.iterdir() if file.is_file())
    else:
        content.check_text(incoming.path, kind.type)
    incoming.publish(kind.suffix)
    file = UploadedFile(
        id=incoming.id,
        project=principal.project,
        key_id=principal.key_id,
        name=name,
        suffix=kind.suffix,
        type=kind.type,
        bytes=incoming.bytes,
        stored_bytes=stored,
        sha256=incoming.sha256,
        media_type=kind.media_type,
        created_at=utcnow(),
    )
    try:
        with sessions.begin() as session:
            keys.lock_project(session, principal.project)
            Room.of(session, settings, principal).check_stored(stored)
            repository.add(session, file)
            audit.note(session, principal.project, principal.key_id, audit.Action.FILE_UPLOADED, file.id)
    except DATABASE_DOWN:
        incoming.keep()  # it may have been committed; if not, `sweep` removes the folder
        raise
    incoming.keep()
    return file


def get(session: Session, project: str, file_id: str) -> UploadedFile:
    """The project's file. Raises a 404 `Problem`, also where the file is another project's."""
    file = repository.get_in_project(session, project, file_id) if is_id("file", file_id) else None
    if file is None:
        raise _not_found()
    return file


def page(session: Session, project: str, *, limit: int, after: str | None) -> tuple[Sequence[UploadedFile], bool]:
    """Up to `limit` files, newest first, and whether there are more."""
    files = repository.page(session, project, limit=limit + 1, after=after)
    return files[:limit], len(files) > limit


def path_of(settings: Settings, file: UploadedFile) -> os.PathLike[str]:
    """Where the file lies as it came. Raises a 410 `Problem` where it was removed."""
    path = layout.content(settings.files_dir / file.id, file.suffix)
    if not path.is_file():
        raise Problem(
            "file-gone", "The file is no longer on the server", 410, "It was removed there. Upload it again."
        )
    return path


def delete(session: Session, principal: Principal, file_id: str) -> None:
    """Makes the file invisible; `remove` is for afterwards. Raises a 404 or 409 `Problem`."""
    file = repository.take_in_project(session, principal.project, file_id) if is_id("file", file_id) else None
    if file is None:
        raise _not_found()
    if (job_id := repository.user(session, file_id)) is not None:
        raise Problem(
            "file-in-use",
            "A job uses the file",
            409,
            f"{job_id} has not ended. Delete the file afterwards, or POST /v1/jobs/{job_id}/cancel first.",
            job_id=job_id,
        )
    repository.remove(session, file_id)
    audit.note(session, principal.project, principal.key_id, audit.Action.FILE_DELETED, file_id)


def remove(settings: Settings, file_id: str) -> None:
    """Takes a deleted file off the disk."""
    shutil.rmtree(settings.files_dir / file_id, ignore_errors=True)


def check_model(session: Session, project: str, file_id: str) -> None:
    """Raises `ModelNotFound` or a 422 `Problem` where a job may not use this file as its model.

    The file stays until the transaction has ended.
    """
    file = repository.keep_in_project(session, project, file_id)
    if file is None:
        raise ModelNotFound(f"This key's project has no file {file_id}. GET /v1/files lists those it has.")
    if file.type != FileType.MODEL:
        raise _wrong_type(file, "a model", "a model as .tar or .tar.gz")


def check_text(session: Session, project: str, file_id: str) -> None:
    """Raises `TextNotFound` or a 422 `Problem` where a job may not use this file as a text; otherwise as above."""
    file = repository.keep_in_project(session, project, file_id)
    if file is None:
        raise TextNotFound(f"This key's project has no file {file_id}. GET /v1/files lists those it has.")
    if file.type == FileType.MODEL:
        raise _wrong_type(file, "a text", "a .txt, .jsonl or .parquet file")


def note_use(session: Session, job_id: str, spec: PruneSpec) -> None:
    """Keeps the files that a job uses until it has ended."""
    repository.add_uses(session, job_id, sorted(layout.used(spec)))


def sweep(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Removes what uploads and deletions have left that ended with their process."""
    if not settings.files_dir.is_dir():
        return
    for folder in settings.files_dir.iterdir():
        file_id = folder.name.removeprefix(".")
        if not is_id("file", file_id) or (held := lock(folder)) is None:
            continue
        try:
            with sessions() as session:
                left = folder.name != file_id or not repository.exists(session, file_id)
        finally:
            os.close(held)
        if left:
            logger.info("%s was not uploaded to its end, or is deleted; its folder is removed", file_id)
            shutil.rmtree(folder, ignore_errors=True)


def _plain(name: str) -> str:
    """The name without folders, which some clients send along. Raises a 422 `Problem`."""
    name = re.split(r"[/\\]", name)[-1].strip()
    if not name or _CONTROL.search(name) or len(name.encode(errors="replace")) > _MAX_NAME_BYTES:
        raise content.invalid_file(
            f"The file's name is empty, too long or has control characters. Use up to {_MAX_NAME_BYTES} bytes."
        )
    return name


def _check_sha256(actual: str, expected: str | None) -> None:
    if expected is not None and expected.lower() != actual:
        raise Problem(
            "checksum-mismatch",
            "The file is not the one that was meant",
            422,
            f"What has come has the sha256 {actual}, and {expected[:64]!r} was expected. Send it again.",
            sha256=actual,
        )


def _wrong_type(file: UploadedFile, wanted: str, upload: str) -> Problem:
    return Problem(
        "wrong-file-type",
        "The file is of another type",
        422,
        f"{file.id} ({file.name}) is of type {file.type}, and {wanted} is needed there. Upload {upload}.",
    )


def _not_found() -> Problem:
    return Problem(
        "file-not-found",
        "No such file",
        404,
        "This key's project has no file with that id. GET /v1/files lists those it has.",
    )
