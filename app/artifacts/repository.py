"""Every query on artifacts."""

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.artifacts.models import Artifact, StoredLocation
from app.jobs.models import Job, JobState

_ENDED = [state for state in JobState if state.final]


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


def note_location(session: Session, location: str, job_id: str) -> None:
    """Says that files of a job will be at this location, if it is not said yet."""
    session.merge(StoredLocation(location=location, job_id=job_id))
    session.flush()


def unreferenced(session: Session, *, ended_before: datetime) -> Sequence[str]:
    """Locations of jobs that ended before this moment, and that are not where the job's files are."""
    return session.scalars(
        select(StoredLocation.location)
        .join(Job, Job.id == StoredLocation.job_id)
        .where(
            Job.state.in_(_ENDED),
            Job.finished_at < ended_before,
            or_(Job.artifacts_dir.is_(None), Job.artifacts_dir != StoredLocation.location),
        )
    ).all()


def forget_location(session: Session, location: str) -> None:
    """Says that there is nothing more at this location."""
    session.execute(delete(StoredLocation).where(StoredLocation.location == location))


def expire(session: Session, now: datetime) -> Sequence[str]:
    """Takes their files from jobs that may not keep them longer; returns these jobs."""
    return session.scalars(
        update(Job)
        .where(Job.artifacts_expire_at <= now, Job.artifacts_dir.is_not(None))
        .values(artifacts_dir=None)
        .returning(Job.id),
        execution_options={"synchronize_session": False},
    ).all()


def ended(session: Session, job_ids: Collection[str], *, before: datetime) -> set[str]:
    """Those of these jobs that ended before this moment."""
    query = select(Job.id).where(Job.id.in_(job_ids), Job.state.in_(_ENDED), Job.finished_at < before)
    return set(session.scalars(query))
