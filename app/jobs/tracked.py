"""Of which jobs' ends experiment trackers are still to hear: the worker that was at one may not have come to that.

It is noted when an attempt begins and forgotten once its trackers have heard of the end, so that another worker
can tell them, once. Each function is meant for a transaction of its own and commits nothing.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.orm import Session

from app import db
from app.jobs import repository
from app.jobs.models import Job

# Longer than a worker waits for its trackers: see `worker.trackers`.
LEFT_TO_ITS_WORKER = timedelta(minutes=20)


def note(session: Session, job_id: str) -> None:
    """Trackers follow the job from now on."""
    repository.note_tracked(session, job_id)


def forget(session: Session, job_id: str) -> bool:
    """They have heard of its end; False where that was known."""
    return repository.forget_tracked(session, job_id)


def overlooked(session: Session, limit: int) -> Sequence[str]:
    """Jobs that have ended without a word to their trackers."""
    return repository.tracked(session, ended_before=db.now(session) - LEFT_TO_ITS_WORKER, limit=limit)


def take(session: Session) -> Job | None:
    """One of those with its report, for the caller alone, and forgotten: it may be what ends its workers."""
    for job_id in overlooked(session, 1):
        if forget(session, job_id):
            return repository.get(session, job_id, with_report=True)
    return None
