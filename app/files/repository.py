"""Every query on uploaded files."""

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, delete, func, select
from sqlalchemy.orm import Session

from app.files.models import JobFile, UploadedFile
from app.jobs.models import Job, JobState


def stored_bytes(session: Session, project: str, key_id: str) -> tuple[int, int]:
    """What those files of a project take on disk that one of its keys has uploaded, and what all of them take."""
    stored = func.sum(UploadedFile.stored_bytes)
    query = select(func.coalesce(stored.filter(UploadedFile.key_id == key_id), 0), func.coalesce(stored, 0)).where(
        UploadedFile.project == project
    )
    of_key, of_project = session.execute(query).one()
    return int(of_key), int(of_project)


def add(session: Session, file: UploadedFile) -> None:
    """Stores a new file."""
    session.add(file)
    session.flush()


def exists(session: Session, file_id: str) -> bool:
    """Whether there is such a file, in any project."""
    return session.get(UploadedFile, file_id) is not None


def get_in_project(session: Session, project: str, file_id: str) -> UploadedFile | None:
    """The file, if it is this project's."""
    return session.scalars(_of(project, file_id)).one_or_none()


def keep_in_project(session: Session, project: str, file_id: str) -> UploadedFile | None:
    """The same; nobody can delete it until the transaction has ended."""
    return session.scalars(_of(project, file_id).with_for_update(read=True)).one_or_none()


def take_in_project(session: Session, project: str, file_id: str) -> UploadedFile | None:
    """The same; no job can begin to use it until the transaction has ended."""
    return session.scalars(_of(project, file_id).with_for_update()).one_or_none()


def page(session: Session, project: str, *, limit: int, after: str | None) -> Sequence[UploadedFile]:
    """Up to `limit` files of a project, newest first, beginning after the file `after`."""
    query = (
        select(UploadedFile).where(UploadedFile.project == project).order_by(UploadedFile.id.desc()).limit(limit)
    )
    if after is not None:
        query = query.where(UploadedFile.id < after)
    return session.scalars(query).all()


def add_uses(session: Session, job_id: str, file_ids: Iterable[str]) -> None:
    """Notes that a job uses these files."""
    session.add_all(JobFile(file_id=file_id, job_id=job_id) for file_id in file_ids)
    session.flush()


def user(session: Session, file_id: str) -> str | None:
    """A job that uses the file and has not ended."""
    return session.scalars(
        select(Job.id)
        .join(JobFile, JobFile.job_id == Job.id)
        .where(JobFile.file_id == file_id, Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .order_by(Job.id)
        .limit(1)
    ).one_or_none()


def remove(session: Session, file_id: str) -> None:
    """Removes a file's row, and what says which jobs used it."""
    session.execute(delete(UploadedFile).where(UploadedFile.id == file_id))


def _of(project: str, file_id: str) -> Select[UploadedFile]:
    return select(UploadedFile).where(UploadedFile.id == file_id, UploadedFile.project == project)
