"""Rules on workers. Each says now and then that it is there; one that is silent as long as a lease is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy.orm import Session, sessionmaker

from app import db
from app.workers import repository
from app.workers.models import Worker

# So long a lost worker is still shown.
_SHOWN_LOST = timedelta(hours=1)


class WorkerState(StrEnum):
    """What a project may know of a worker."""

    ONLINE = "online"
    BUSY = "busy"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker as a project may see it, which shall not count the others' jobs.

    It is busy with a job of the project's own alone. Nor is told when one that is not lost was last heard of: it
    says so too when it takes a job.
    """

    worker: Worker
    state: WorkerState
    job_id: str | None
    last_seen_at: datetime | None


def beat(session: Session, worker: Worker) -> None:
    """Writes that a worker is there, and what it is at."""
    worker.last_seen_at = db.now(session)
    repository.put(session, worker)


def leave(session: Session, worker_id: str) -> None:
    """Forgets a worker that has been stopped."""
    repository.remove(session, worker_id)


def all_workers(session: Session, project: str, lease_seconds: float) -> Sequence[Seen]:
    """Every worker of the installation, the oldest first."""
    lost_since = db.now(session) - timedelta(seconds=lease_seconds)
    return [
        _seen(worker, worker.job_id if at == project else None, lost_since)
        for worker, at in repository.all_with_projects(session)
    ]


def sweep(sessions: sessionmaker[Session]) -> None:
    """Forgets workers that have long been lost."""
    with sessions.begin() as session:
        repository.remove_unseen(session, db.now(session) - _SHOWN_LOST)


def _seen(worker: Worker, job_id: str | None, lost_since: datetime) -> Seen:
    if worker.last_seen_at < lost_since:
        return Seen(worker, WorkerState.LOST, job_id, worker.last_seen_at)
    return Seen(worker, WorkerState.ONLINE if job_id is None else WorkerState.BUSY, job_id, None)
