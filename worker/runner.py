"""Runs one job from claim to publication."""

import errno
import logging
import mimetypes
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from app import logs, problems, staging
from app.artifacts.store import open_store
from app.db import DATABASE_DOWN
from app.ids import new_id
from app.jobs import leases, repository, tracked
from app.jobs.leases import Lease, LeaseLost, NewArtifact
from app.jobs.models import Job, JobState
from app.jobs.schemas import PushResource
from app.settings import Settings
from eggs_core.checksums import CHECKSUMS, read_checksums, sha256
from eggs_core.errors import Cancelled, DiskUnavailable, EggsError, NoSpace, OutputExists
from eggs_core.journal import finished
from eggs_core.progress import ProgressEvent
from worker import spans
from worker.heart import Heart, Signal, Stopping
from worker.processes import prune
from worker.push import hub_token, prepare, push_files
from worker.spans import Stages
from worker.trackers import FAREWELL_SECONDS, PATIENCE_SECONDS, Trackers
from worker.trackers.tracker import TrackedJob

# Between two tries to reach a database that does not answer.
_PAUSE_SECONDS = 1.0
# What a file system says that went read-only, whose disk fails, or whose server has forgotten the file.
_DISK_AWAY = (errno.EROFS, errno.EIO, errno.ESTALE)

logger = logging.getLogger(__name__)

T = TypeVar("T")


def run_next(
    settings: Settings,
    sessions: sessionmaker[Session],
    stopping: Signal,
    taken: Callable[[str], None] = lambda job_id: None,
) -> None:
    """Runs the job whose turn it is, if there is one; `taken` is told of it."""
    _track_overlooked(settings, sessions, stopping)
    passed: set[str] = set()
    while True:
        with sessions.begin() as session:
            job_id = leases.next_job(session, most_running=settings.max_running_per_key, passed=passed)
        if job_id is None or run_job(job_id, settings, sessions, stopping, taken):
            return
        passed.add(job_id)


def run_job(
    job_id: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    stopping: Signal,
    taken: Callable[[str], None] = lambda job_id: None,
) -> bool:
    """Claims the job and sees it through; does nothing, and returns False, if there is nothing to claim.

    Every end is written to the database under the lease. An attempt that lost its lease leaves no trace; one that
    could not come to an end leaves what it has done for the next one to go on with.
    """
    with logs.bound(job_id=job_id):
        with sessions.begin() as session:
            lease = leases.claim(
                session,
                job_id,
                settings.lease_seconds,
                max_attempts=settings.max_attempts,
                most_running=settings.max_running_per_key,
            )
            if lease is not None and settings.trackers:
                tracked.note(session, job_id)
            job = repository.get(session, job_id)
        if lease is None:
            logger.info(
                "Not to be had: another worker has it, it has ended, or its key has as many running as may"
            )
            if job is not None and job.state in (JobState.FAILED, JobState.CANCELLED):
                _remove_leftovers(settings, job_id)
                _track_lost(settings, sessions, job, stopping)
            return False
        assert job is not None
        taken(job_id)
        with logs.bound(attempt=lease.attempt), spans.attempt(lease) as stages:
            trackers = Trackers(settings, TrackedJob.of(job))
            _see_through(lease, settings, sessions, stopping, stages, trackers)
    return True


def _see_through(
    lease: Lease,
    settings: Settings,
    sessions: sessionmaker[Session],
    stopping: Signal,
    stages: Stages,
    trackers: Trackers,
) -> None:
    logger.info("Started")
    folder = staging.folder(settings, lease.job_id, lease.attempt)
    to_go_on = False

    def told() -> None:
        _track_end(trackers, sessions, lease, folder, stopping, FAREWELL_SECONDS)

    def ended() -> None:
        _remove_leftovers(settings, lease.job_id)
        told()

    try:
        with Heart(sessions, lease, settings, stopping, ended, handed_back=told) as heart:
            try:
                _take_over(settings, lease)
                _prune_and_publish(settings, sessions, lease, heart, stages, trackers)
                _note("succeeded")
            except Cancelled:
                _insist(sessions, lambda session: leases.confirm_cancelled(session, lease))
                _note("cancelled")
            except Stopping:
                _insist(sessions, lambda session: leases.hand_back(session, lease))
                _note("handed back, as the worker is to stop")
                to_go_on = True
            except LeaseLost:
                raise
            except Exception as error:
                to_go_on = _fail_or_retry(error, settings, sessions, lease)
    except LeaseLost:
        to_go_on = _queued_since(sessions, lease)
        _note("queued again" if to_go_on else "given up, as it lost its lease")
    _track_end(trackers, sessions, lease, folder, stopping, PATIENCE_SECONDS)
    if not to_go_on:
        shutil.rmtree(folder, ignore_errors=True)


def _queued_since(sessions: sessionmaker[Session], lease: Lease) -> bool:
    """Whether the job waits for another attempt to go on where this one stopped: a connection may have been lost
    between the commit that queued it again and the word of it."""
    try:
        with sessions.begin() as session:
            job = repository.get(session, lease.job_id)
    except DATABASE_DOWN:
        return True  # what is left of a job that has ended is swept
    return job is not None and (job.state, job.attempt) == (JobState.QUEUED, lease.attempt)


def _track_end(
    trackers: Trackers,
    sessions: sessionmaker[Session],
    lease: Lease,
    folder: Path,
    stopping: Signal,
    patience: float,
) -> None:
    """Tells the trackers how the attempt has left its job."""
    if trackers:
        try:
            with sessions.begin() as session:
                job = repository.get(session, lease.job_id, with_report=True)
        except DATABASE_DOWN:
            logger.warning("Trackers do not hear of the end yet: the database does not answer")
            return
        assert job is not None
        if trackers.end(job, folder, stopping, patience) and job.state.final:
            with suppress(*DATABASE_DOWN), sessions.begin() as session:  # or another worker tells them again
                tracked.forget(session, lease.job_id)


def _track_lost(settings: Settings, sessions: sessionmaker[Session], job: Job, stopping: Signal) -> None:
    """Ends in the trackers what the attempts at a job began, none of which came to its end."""
    if job.attempt:
        _track(settings, job, stopping)
        with sessions.begin() as session:
            tracked.forget(session, job.id)


def _track_overlooked(settings: Settings, sessions: sessionmaker[Session], stopping: Signal) -> None:
    """Tells the trackers of the end of a job whose own worker has not come to that."""
    with sessions.begin() as session:
        job = tracked.take(session)
    if job is not None:
        with logs.bound(job_id=job.id):
            logger.info("Trackers hear of its end only now")
            _track(settings, job, stopping)


def _track(settings: Settings, job: Job, stopping: Signal) -> None:
    if settings.trackers:
        with suppress(ValidationError):
            folder = staging.folder(settings, job.id, job.attempt)
            Trackers(settings, TrackedJob.of(job)).end(job, folder, stopping)


def _note(outcome: str, problem: dict[str, Any] | None = None) -> None:
    """Tells the operator how the attempt at hand has ended, in log and trace."""
    if problem is None:
        logger.info("Ended: %s", outcome)
    else:
        logger.warning("Ended: %s, %s: %s", outcome, problem["type"], problem["detail"])
    spans.outcome(outcome, None if problem is None else problem["type"])


def _prune_and_publish(
    settings: Settings,
    sessions: sessionmaker[Session],
    lease: Lease,
    heart: Heart,
    stages: Stages,
    trackers: Trackers,
) -> None:
    def on_progress(event: ProgressEvent) -> None:
        stages.progressed(event)
        trackers.progressed(event)
        heart.check()
        try:
            with sessions.begin() as session:
                leases.record_progress(
                    session,
                    lease,
                    progress=event.fraction,
                    stage=event.stage,
                    message=event.message,
                    data=event.data,
                )
        except DATABASE_DOWN:
            # The work goes on; whether it still counts is for the heart to find out.
            logger.warning("Progress could not be recorded: the database does not answer")

    folder = staging.folder(settings, lease.job_id, lease.attempt)
    token = hub_token(settings, lease)
    report = finished(folder)
    if report is None:
        if token is not None:
            prepare(lease, token)
        try:
            report = prune(lease.spec, folder, settings, on_progress, heart.check)
        except OutputExists:  # what an earlier attempt left was made with another model, version or thread count
            shutil.rmtree(folder)
            report = prune(lease.spec, folder, settings, on_progress, heart.check)
    artifacts = _artifacts(folder)
    # Two attempts that go on with the same files put them in the same place, and others never do.
    location = f"{lease.job_id}/{artifacts[CHECKSUMS].sha256[:16]}"
    _insist(sessions, lambda session: leases.note_location(session, lease, location))
    on_progress(ProgressEvent("publish", 1.0, f"Publishing {len(artifacts)} files"))
    open_store(settings).put(folder, location, list(artifacts.values()), heart.check)
    heart.check()
    push = None
    if token is not None:
        on_progress(ProgressEvent("push", 1.0, "Pushing to the Hugging Face Hub"))
        push = push_files(settings, lease, token, folder)
        heart.check()
    _publish(settings, sessions, lease, report.model_dump(mode="json"), list(artifacts.values()), location, push)


def _publish(
    settings: Settings,
    sessions: sessionmaker[Session],
    lease: Lease,
    report: dict[str, Any],
    artifacts: Sequence[NewArtifact],
    location: str,
    push: PushResource | None,
) -> None:
    """Makes the files visible in one transaction."""
    days = settings.artifact_retention_days
    keep_for = None if days is None else timedelta(days=days)

    def succeed(session: Session) -> None:
        # A connection may have been lost between the commit and the word of it.
        if not leases.has_succeeded(session, lease, location):
            leases.succeed(
                session,
                lease,
                report=report,
                artifacts=artifacts,
                artifacts_dir=location,
                keep_for=keep_for,
                push=push,
            )

    _insist(sessions, succeed)


def _fail_or_retry(error: Exception, settings: Settings, sessions: sessionmaker[Session], lease: Lease) -> bool:
    """Ends the job as failed; or queues it again, and returns True, where the fault may pass by itself."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = NoSpace("The disk ran full in the middle of the job. Make room and submit again.")
    elif isinstance(error, OSError) and error.errno in _DISK_AWAY:
        logger.warning("A disk of the worker cannot be used: %s", error)
        error = DiskUnavailable(
            "A disk of the worker is read-only, or does not answer. Tell the operator, and submit again after."
        )
    if not isinstance(error, EggsError):
        problem = _our_fault(error)
    elif not error.transient:
        problem = problems.from_error(error)
    else:
        problem = problems.from_error(error)
        pause = timedelta(seconds=settings.retry_pause_seconds)
        again = _insist(
            sessions,
            lambda session: leases.retry(
                session, lease, problem, first_pause=pause, max_retries=settings.max_retries
            ),
        )
        _note("to be tried again" if again else "not to be tried again", problem)
        return again
    _insist(sessions, lambda session: leases.fail(session, lease, problem))
    _note("failed", problem)
    return False


def _insist(sessions: sessionmaker[Session], do: Callable[[Session], T]) -> T:
    """Does something in one transaction, and waits for a database that does not answer."""
    while True:
        try:
            with sessions.begin() as session:
                return do(session)
        except DATABASE_DOWN:
            logger.warning("The end of an attempt is not recorded yet: the database does not answer")
            time.sleep(_PAUSE_SECONDS)


def _artifacts(folder: Path) -> dict[str, NewArtifact]:
    """The files that SHA256SUMS names, and itself, by name."""
    sums = read_checksums(folder) | {CHECKSUMS: sha256(folder / CHECKSUMS)}
    return {
        name: NewArtifact(
            name=name,
            bytes=(folder / name).stat().st_size,
            sha256=digest,
            media_type=_media_type(name),
        )
        for name, digest in sorted(sums.items())
    }


def _media_type(name: str) -> str:
    if name.endswith(".md"):
        return "text/markdown"
    if name == CHECKSUMS:
        return "text/plain"
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def _our_fault(error: Exception) -> dict[str, Any]:
    """What the user is told of an error that nobody foresaw; the log has the rest."""
    reference = new_id("err")
    logger.error("Failed by a defect of the service; reference %s", reference, exc_info=error)
    return problems.internal_error(reference)


def _take_over(settings: Settings, lease: Lease) -> None:
    """Makes what the attempt before has staged this one's, and removes what else earlier ones left.

    A renamed folder is out of reach of the attempt before, should it live on without its lease.
    """
    folders = staging.attempts(settings, lease.job_id)
    if folders and (latest := max(folders)) != lease.attempt:
        folders.pop(latest).rename(staging.folder(settings, lease.job_id, lease.attempt))
    for folder in folders.values():
        shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(settings: Settings, job_id: str) -> None:
    """What the attempts at a job left that has ended without success."""
    for folder in staging.attempts(settings, job_id).values():
        shutil.rmtree(folder, ignore_errors=True)
