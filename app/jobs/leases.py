"""What a worker may do to a job. The database is the truth: a worker owns a job while its lease token is current.

Each function is meant for a transaction of its own and commits nothing:
`with sessions.begin() as session: claim(session, ...)`. Leases go by the database's clock: hosts whose own are
wrong neither lose their jobs nor take those of others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import db, problems
from app.artifacts import repository as artifacts_repository
from app.artifacts import service as artifacts_service
from app.artifacts.service import NewArtifact
from app.ids import new_id
from app.jobs import repository, transitions
from app.jobs.models import Job, JobState
from app.jobs.schemas import PushResource
from app.keys import repository as keys_repository
from eggs_core.spec import PruneSpec

__all__ = [
    "Heartbeat",
    "Lease",
    "LeaseLost",
    "NewArtifact",
    "claim",
    "confirm_cancelled",
    "fail",
    "hand_back",
    "has_succeeded",
    "heartbeat",
    "next_job",
    "note_location",
    "record_progress",
    "reoffer_candidates",
    "retry",
    "succeed",
]

_OUTDATED = problems.document(
    "request-outdated",
    "The request is not valid any more",
    422,
    "It was stored by another version of the service, which took what this one does not. Submit the job again.",
)


# However often a job was tried again, it is looked after once an hour.
_LONGEST_PAUSE = timedelta(hours=1)


class LeaseLost(Exception):
    """The lease is no longer the current one: the attempt must stop and leave no trace."""


class Heartbeat(Enum):
    """What a worker hears when it says that it is alive."""

    OK = "ok"
    CANCEL_REQUESTED = "cancel_requested"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job, until it expires or another attempt begins."""

    job_id: str
    token: str
    attempt: int
    spec: PruneSpec
    retries: int = 0
    push: PushResource | None = None
    hub_token: str | None = None
    """Encrypted; None where the service's own is to be used."""
    traceparent: str | None = None


def claim(
    session: Session, job_id: str, lease_seconds: float, *, max_attempts: int, most_running: int | None
) -> Lease | None:
    """Takes a job that is queued, or whose worker was lost; None if there is nothing to take.

    Nor is there where its key has `most_running` jobs by now, or as many as its own limit allows: claims for one
    key wait for each other, so that no two of them take its last place.

    A job whose stored request is not valid any more is ended as failed. A lost job is not started again but ended
    where the user has asked to cancel it, or where it has cost `max_attempts` workers already.
    """
    key_id = repository.key_of(session, job_id)
    if key_id is None:
        return None
    keys_repository.lock(session, key_id)
    now = db.now(session)
    lost = repository.lease_lost(now)
    if transitions.cancelled(session, job_id, lost & Job.cancel_requested_at.is_not(None)) is not None:
        return None
    if transitions.failed(
        session, job_id, lost & (Job.workers_lost + 1 >= max_attempts), problem=_worker_lost(max_attempts)
    ):
        return None
    token = new_id("lease")
    job = transitions.running(
        session,
        job_id,
        repository.startable(now, most_running),
        token=token,
        expires_at=now + timedelta(seconds=lease_seconds),
    )
    if job is None:
        return None
    keys_repository.serve(session, key_id, now)
    try:
        spec = PruneSpec.model_validate(job.spec)
    except ValidationError:
        transitions.failed(session, job_id, repository.leased(token), problem=_OUTDATED)
        return None
    push = None if job.push_to_hub is None else PushResource.model_validate(job.push_to_hub)
    return Lease(job.id, token, job.attempt, spec, job.retries, push, job.hub_token, job.traceparent)


def next_job(session: Session, *, most_running: int | None, passed: Collection[str] = ()) -> str | None:
    """The job whose turn it is; another worker may be faster to claim it."""
    return repository.next_claimable(session, db.now(session), most_running=most_running, passed=passed)


def heartbeat(session: Session, lease: Lease, lease_seconds: float) -> Heartbeat:
    """Extends the lease, and says whether the worker should go on."""
    expires_at = db.now(session) + timedelta(seconds=lease_seconds)
    job = repository.extend_lease(session, lease.job_id, lease.token, expires_at)
    if job is None:
        return Heartbeat.LOST
    return Heartbeat.OK if job.cancel_requested_at is None else Heartbeat.CANCEL_REQUESTED


def record_progress(
    session: Session,
    lease: Lease,
    *,
    progress: float,
    stage: str,
    message: str | None = None,
    data: dict[str, Any] | None = None,
) -> None:
    """Writes how far the attempt is, from 0 to 1. What users see never falls. Raises `LeaseLost`."""
    _kept(
        transitions.progressed(
            session,
            lease.job_id,
            repository.leased(lease.token),
            progress=progress,
            stage=stage,
            message=message or stage,
            data=data or {},
        )
    )


def note_location(session: Session, lease: Lease, location: str) -> None:
    """Writes where in the store the attempt is about to put its files, so that they are not lost sight of.

    Raises `LeaseLost`.
    """
    _kept(repository.leased_job(session, lease.job_id, lease.token))
    artifacts_repository.note_location(session, location, lease.job_id)


def succeed(
    session: Session,
    lease: Lease,
    *,
    report: dict[str, Any],
    artifacts: Sequence[NewArtifact],
    artifacts_dir: str,
    keep_for: timedelta | None = None,
    push: PushResource | None = None,
) -> None:
    """Ends the job with its report and artifacts, and what came of its push, in one step. Raises `LeaseLost`.

    `artifacts_dir` is the location in the store that holds the files, complete by now, and `keep_for` how long
    they are kept.
    """
    condition = repository.leased(lease.token)
    _kept(
        transitions.succeeded(
            session,
            lease.job_id,
            condition,
            report=report,
            artifacts_dir=artifacts_dir,
            keep_for=keep_for,
            push=None if push is None else push.model_dump(mode="json"),
        )
    )
    artifacts_service.publish(session, lease.job_id, artifacts)


def has_succeeded(session: Session, lease: Lease, artifacts_dir: str) -> bool:
    """Whether the job has succeeded, with these artifacts."""
    job = repository.get(session, lease.job_id)
    return job is not None and job.state is JobState.SUCCEEDED and job.artifacts_dir == artifacts_dir


def fail(session: Session, lease: Lease, problem: dict[str, Any]) -> None:
    """Ends the job with a problem document (see `app.problems`). Raises `LeaseLost`."""
    _kept(transitions.failed(session, lease.job_id, repository.leased(lease.token), problem=problem))


def confirm_cancelled(session: Session, lease: Lease) -> None:
    """Ends the job as the user has asked. Raises `LeaseLost`."""
    _kept(transitions.cancelled(session, lease.job_id, repository.leased(lease.token)))


def hand_back(session: Session, lease: Lease) -> None:
    """Puts the job back into the queue, or ends it where the user has asked to cancel it. Raises `LeaseLost`."""
    if transitions.handed_back(session, lease.job_id, repository.leased(lease.token)) is None:
        confirm_cancelled(session, lease)


def retry(
    session: Session, lease: Lease, problem: dict[str, Any], *, first_pause: timedelta, max_retries: int
) -> bool:
    """Puts the job back into the queue after a fault that may pass, for a pause that doubles from time to time.

    Ends it instead, and returns False, where the user has asked to cancel it, or where it was tried again
    `max_retries` times already. Raises `LeaseLost`.
    """
    condition = repository.leased(lease.token)
    if transitions.cancelled(session, lease.job_id, condition & Job.cancel_requested_at.is_not(None)) is not None:
        return False
    job = _kept(repository.get(session, lease.job_id))
    if job.retries >= max_retries:
        fail(session, lease, problem)
        return False
    pause = min(first_pause * 2 ** min(job.retries, 30), _LONGEST_PAUSE)
    if transitions.retried(session, lease.job_id, condition, problem=problem, pause=pause) is None:
        confirm_cancelled(session, lease)  # it was asked for only now
        return False
    return True


def reoffer_candidates(session: Session, limit: int, *, queued_for: timedelta = timedelta()) -> Sequence[str]:
    """Jobs that a worker could take and that are at least so old, the oldest first."""
    now = db.now(session)
    return repository.claimable_ids(session, now, queued_before=now - queued_for, limit=limit)


def _kept(job: Job | None) -> Job:
    if job is None:
        raise LeaseLost
    return job


def _worker_lost(attempts: int) -> dict[str, Any]:
    return problems.document(
        "worker-lost",
        "The job lost every worker that took it",
        500,
        f"{attempts} workers ended without a word, most often because the machine ran out of memory. Try a "
        "smaller model, fewer samples or shorter sequences, or ask the operator what the worker's log says.",
    )
