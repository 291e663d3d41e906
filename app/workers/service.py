"""Rules on workers. Each says now and then that it is there; one that is silent as long as a lease is lost."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.workers import repository
from app.workers.models import Worker

# So long a lost worker is still shown.
_SHOWN_LOST = timedelta(hours=1)


class WorkerState(StrEnum):
    """What a worker is at."""

    IDLE = "idle"
    BUSY = "busy"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Seen:
    """A worker as a project may see it: the job that it is at only where that is the project's own."""

    worker: Worker
    state: WorkerState
    job_id: str | None


def beat(session: Session, worker: Worker) -> None:
    """Writes that a worker is there, and what it is at."""
    worker.last_seen_at = utcnow()
    repository.put(session, worker)


def leave(session: Session, worker_id: str) -> None:
    """Forgets a worker that has been stopped."""
    repository.remove(session, worker_id)


def all_workers(session: Session, project: str, lease_seconds: float) -> Sequence[Seen]:
    """Every worker of the installation, the oldest first."""
    return [
        Seen(worker, _state(worker, lease_seconds), worker.job_id if at == project else None)
        for worker, at in repository.all_with_projects(session)
    ]


def sweep(sessions: sessionmaker[Session]) -> None:
    """Forgets workers that have long been lost."""
    with sessions.begin() as session:
        repository.remove_unseen(session, utcnow() - _SHOWN_LOST)


def _state(worker: Worker, lease_seconds: float) -> WorkerState:
    if worker.last_seen_at < utcnow() - timedelta(seconds=lease_seconds):
        return WorkerState.LOST
    return WorkerState.IDLE if worker.job_id is None else WorkerState.BUSY
