"""Rules on artifacts."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.artifacts import repository
from app.artifacts.models import Artifact
from app.db import utcnow
from app.ids import new_id


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
