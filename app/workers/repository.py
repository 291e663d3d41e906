"""Every query on workers."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.jobs.models import Job
from app.workers.models import Worker


def put(session: Session, worker: Worker) -> None:
    """Stores a worker, or what has changed of it."""
    session.merge(worker)
    session.flush()


def all_with_projects(session: Session) -> Sequence[tuple[Worker, str | None]]:
    """Every worker, the oldest first, and the project of the job that it is at."""
    query = select(Worker, Job.project).outerjoin(Job, Job.id == Worker.job_id).order_by(Worker.id)
    return [(row[0], row[1]) for row in session.execute(query)]


def remove(session: Session, worker_id: str) -> None:
    """Removes a worker."""
    session.execute(delete(Worker).where(Worker.id == worker_id))


def remove_unseen(session: Session, since: datetime) -> None:
    """Removes those that were not heard of since then."""
    session.execute(delete(Worker).where(Worker.last_seen_at < since))
