"""The life of a job: `queued → running → succeeded | failed | cancelled`, each step in one place.

A worker that is stopped, or that meets a fault which may pass, hands its job back, from running to queued.

Every step takes the condition under which it may happen, writes its event and whatever is to tell of it elsewhere,
ends the sweep of which the job was the last, and returns the job as it is then, or None where the condition did
not hold.
"""

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, true
from sqlalchemy.orm import Session

from app import db
from app.jobs import repository
from app.jobs.models import Job, JobEventType, JobState
from app.sweeps import completion
from app.webhooks import outbox

_NO_LEASE = {"lease_token": None, "lease_expires_at": None}
_OVER = {**_NO_LEASE, "hub_token": None}


def queued(session: Session, job: Job) -> Job:
    """A new job waits for a worker."""
    repository.add(session, job)
    stored = _advance(session, job.id, true(), event=JobEventType.QUEUED, message="Waiting for a worker.")
    assert stored is not None
    return stored


def running(
    session: Session, job_id: str, condition: ColumnElement[bool], *, token: str, expires_at: datetime
) -> Job | None:
    """A worker takes the job."""
    before = repository.get(session, job_id)
    if before is None:
        return None
    attempt = before.attempt + 1
    if attempt == 1:
        message = "A worker has started."
    elif before.state is JobState.QUEUED:
        message = "Another worker goes on."
    else:
        message = "The worker before was lost; another one goes on."
    return _advance(
        session,
        job_id,
        condition & (Job.attempt == before.attempt),
        event=JobEventType.RUNNING,
        message=message,
        data={"attempt": attempt},
        state=JobState.RUNNING,
        attempt=attempt,
        workers_lost=repository.workers_lost(),
        lease_token=token,
        lease_expires_at=expires_at,
        retry_at=None,
        started_at=before.started_at or db.now(session),
    )


def handed_back(session: Session, job_id: str, condition: ColumnElement[bool]) -> Job | None:
    """The job's worker was stopped, and waits for another one to go on; not where it is to be cancelled."""
    return _advance(
        session,
        job_id,
        condition & Job.cancel_requested_at.is_(None),
        event=JobEventType.QUEUED,
        message="The worker was stopped; another one will go on.",
        state=JobState.QUEUED,
        **_NO_LEASE,
    )


def retried(
    session: Session,
    job_id: str,
    condition: ColumnElement[bool],
    *,
    problem: dict[str, Any],
    pause: timedelta,
) -> Job | None:
    """A fault that may pass has stopped the attempt; another one goes on after the pause, as above."""
    return _advance(
        session,
        job_id,
        condition & Job.cancel_requested_at.is_(None),
        event=JobEventType.QUEUED,
        message=f"{problem['title']}; the job goes on in {pause.total_seconds():.0f} seconds.",
        data={"error": problem},
        state=JobState.QUEUED,
        retries=Job.retries + 1,
        retry_at=db.now(session) + pause,
        **_NO_LEASE,
    )


def progressed(
    session: Session,
    job_id: str,
    condition: ColumnElement[bool],
    *,
    progress: float,
    stage: str,
    message: str,
    data: dict[str, Any],
) -> Job | None:
    """The worker has come further."""
    return _advance(
        session,
        job_id,
        condition,
        event=JobEventType.PROGRESS,
        message=message,
        data=data,
        progress=repository.at_least(min(max(progress, 0.0), 1.0)),
        stage=stage,
    )


def cancel_requested(session: Session, job_id: str, condition: ColumnElement[bool]) -> Job | None:
    """The user wants a running job to stop; its worker will see to it."""
    return _advance(
        session,
        job_id,
        condition,
        event=JobEventType.CANCEL_REQUESTED,
        message="Cancellation was asked for; the worker stops after the block at hand.",
        cancel_requested_at=db.now(session),
    )


def succeeded(
    session: Session,
    job_id: str,
    condition: ColumnElement[bool],
    *,
    report: dict[str, Any],
    artifacts_dir: str,
    keep_for: timedelta | None,
    push: dict[str, Any] | None,
) -> Job | None:
    """The artifacts and the report are there, the artifacts for so long or for ever, and `push` came of a push."""
    now = db.now(session)
    verdict = (report.get("acceptance") or {}).get("verdict")
    data = {name: value for name, value in (("push_to_hub", push), ("verdict", verdict)) if value is not None}
    return _advance(
        session,
        job_id,
        condition,
        event=JobEventType.SUCCEEDED,
        message="Done: the report and the artifacts are ready.",
        data=data,
        state=JobState.SUCCEEDED,
        progress=1.0,
        stage=None,
        report=report,
        verdict=verdict,
        artifacts_dir=artifacts_dir,
        artifacts_expire_at=None if keep_for is None else now + keep_for,
        finished_at=now,
        **({} if push is None else {"push_to_hub": push}),
        **_OVER,
    )


def failed(
    session: Session, job_id: str, condition: ColumnElement[bool], *, problem: dict[str, Any]
) -> Job | None:
    """The job ended with a problem, kept as the document that a request would have been answered with."""
    return _advance(
        session,
        job_id,
        condition,
        event=JobEventType.FAILED,
        message=str(problem.get("detail") or problem.get("title") or "The job failed."),
        data={"error": problem},
        state=JobState.FAILED,
        error=problem,
        finished_at=db.now(session),
        **_OVER,
    )


def cancelled(session: Session, job_id: str, condition: ColumnElement[bool]) -> Job | None:
    """The job was stopped because the user asked for it."""
    now = db.now(session)
    return _advance(
        session,
        job_id,
        condition,
        event=JobEventType.CANCELLED,
        message="Cancelled.",
        state=JobState.CANCELLED,
        cancel_requested_at=repository.cancel_moment(now),
        finished_at=now,
        **_OVER,
    )


def _advance(session: Session, job_id: str, condition: ColumnElement[bool], **change: Any) -> Job | None:
    step = repository.advance(session, job_id, condition, **change)
    if step is None:
        return None
    job, event = step
    outbox.write_job(session, job, event)
    if job.state.final and job.sweep_id is not None:
        completion.complete(session, job.sweep_id)
    return job
