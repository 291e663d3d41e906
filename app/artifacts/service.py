"""Rules on artifacts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from app.artifacts import repository
from app.artifacts.models import Artifact
from app.artifacts.store import Store
from app.db import utcnow
from app.ids import new_id
from app.jobs.models import Job
from app.problems import Problem


@dataclass(frozen=True, slots=True)
class NewArtifact:
    """A finished file, named by its path within the job's folder, with forward slashes."""

    name: str
    bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


def publish(session: Session, job_id: str, artifacts: Iterable[NewArtifact]) -> None:
    """Makes a job's files visible; the caller's transaction makes it one step with the job's success."""
    repository.add_all(
        session,
        (
            Artifact(
                id=new_id("art"),
                job_id=job_id,
                name=artifact.name,
                bytes=artifact.bytes,
                sha256=artifact.sha256,
                media_type=artifact.media_type,
                created_at=utcnow(),
            )
            for artifact in artifacts
        ),
    )


def of_job(session: Session, job: Job) -> Sequence[Artifact]:
    """The job's files, by name; none before it has succeeded."""
    return repository.of_job(session, job.id)


def named(session: Session, job: Job, name: str) -> Artifact:
    """The job's file of exactly this name. Raises a 404 `Problem`."""
    artifact = None if "\0" in name else repository.named(session, job.id, name)
    if artifact is None:
        raise Problem(
            "artifact-not-found",
            "The job has no such artifact",
            404,
            f"The job is {job.state}. GET /v1/jobs/{job.id}/artifacts lists the files it has.",
        )
    return artifact


def find(store: Store, job: Job, artifact: Artifact) -> Path | str:
    """The file's path, or a URL of it that whoever has it may use. Raises a 410 `Problem` where it was removed."""
    found = store.find(_location(job), artifact)
    if isinstance(found, Path) and not found.is_file():
        raise _gone("Its file was removed.")
    return found


def read(store: Store, job: Job, artifact: Artifact, start: int, length: int) -> bytes:
    """The file's bytes from `start`, fewer than `length` at its end.

    Raises as `find` does, and `StoreUnavailable` where the store does not answer.
    """
    try:
        return store.read(_location(job), artifact, start, length)
    except FileNotFoundError:
        raise _gone("Its file was removed.") from None


def _location(job: Job) -> str:
    if job.artifacts_expire_at is not None and job.artifacts_expire_at <= utcnow():
        raise _gone("Its time was over.")
    if job.artifacts_dir is None:
        raise _gone("Its file was removed.")
    return job.artifacts_dir


def _gone(why: str) -> Problem:
    return Problem(
        "artifact-gone",
        "The artifact is no longer on the server",
        410,
        f"{why} Submit the job again: the same request gives the same bytes.",
    )
