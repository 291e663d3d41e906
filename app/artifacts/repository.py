"""Every query on artifacts."""

from collections.abc import Iterable, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.artifacts.models import Artifact


def add_all(session: Session, artifacts: Iterable[Artifact]) -> None:
    """Stores new artifacts."""
    session.add_all(artifacts)
    session.flush()


def of_job(session: Session, job_id: str) -> Sequence[Artifact]:
    """The artifacts of a job, by name."""
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def named(session: Session, job_id: str, name: str) -> Artifact | None:
    """The artifact of a job with exactly this name."""
    return session.scalars(select(Artifact).where(Artifact.job_id == job_id, Artifact.name == name)).one_or_none()
