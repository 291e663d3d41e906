"""Rules on jobs as users see them. Nothing here commits: the request does."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app import db, s3_sources, tracing
from app.audit import service as audit
from app.files import layout
from app.files import service as files
from app.idempotency import once
from app.ids import is_id, new_id
from app.jobs import repository, transitions
from app.jobs.models import Job, JobEvent, JobSort, JobState
from app.jobs.schemas import JobCreate, PushResource
from app.keys import repository as keys
from app.keys.limits import Limits
from app.keys.service import Principal
from app.problems import Problem
from app.secrets import Secrets
from app.settings import Settings
from eggs_core.errors import ModelNotAllowed, TextNotFound
from eggs_core.sources import check_text_source, resolve_model, resolve_task
from eggs_core.spec import PruneSpec


def submit(
    session: Session,
    settings: Settings,
    secrets: Secrets,
    principal: Principal,
    body: JobCreate,
    idempotency_key: str | None,
) -> tuple[Job, bool]:
    """The new job, or the one that the same request with the same idempotency key made: then also True.

    Raises an `EggsError` for a model or text that cannot be had, and a 429 `Problem` where the key has as many
    jobs as it may, before anything is stored.
    """

    hub_token = None if body.hub_token is None else body.hub_token.get_secret_value()

    def make() -> str:
        check_references(session, settings, principal.project, body)
        if body.output.push_to_hub is not None:
            _check_push(settings, body)
        take_places(session, settings, principal)
        token = None if hub_token is None else secrets.encrypt(hub_token)
        return create(session, project=principal.project, key_id=principal.key_id, body=body, hub_token=token).id

    job_id, replayed = once(session, principal.project, idempotency_key, body, make, hub_token or "")
    return get(session, principal.project, job_id), replayed


def create(
    session: Session,
    *,
    project: str,
    key_id: str,
    body: JobCreate,
    hub_token: str | None = None,
    sweep_id: str | None = None,
) -> Job:
    """A new queued job, its references unchecked."""
    job = Job(
        id=new_id("job"),
        project=project,
        key_id=key_id,
        name=body.name,
        metadata_=body.metadata,
        sweep_id=sweep_id,
        spec=body.spec.model_dump(mode="json"),
        priority=body.priority,
        push_to_hub=_push(body),
        hub_token=hub_token,
        created_at=db.now(session),
        traceparent=tracing.traceparent(),
    )
    stored = transitions.queued(session, job)
    files.note_use(session, job.id, body.spec)
    audit.note(session, project, key_id, audit.Action.JOB_SUBMITTED, job.id)
    return stored


def get(session: Session, project: str, job_id: str, *, with_report: bool = False) -> Job:
    """The project's job. Raises a 404 `Problem`, also where the job is another project's."""
    job = None
    if is_id("job", job_id):
        job = repository.get_in_project(session, project, job_id, with_report=with_report)
    if job is None:
        raise Problem(
            "job-not-found",
            "No such job",
            404,
            "This key's project has no job with that id. GET /v1/jobs lists those it has.",
        )
    return job


def page(
    session: Session,
    project: str,
    *,
    limit: int,
    after: str | None = None,
    wanted: repository.Filter,
    sort: JobSort,
) -> tuple[Sequence[Job], bool]:
    """Up to `limit` jobs that are wanted, in an order, and whether there are more."""
    jobs = repository.page(session, project, limit=limit + 1, after=after, wanted=wanted, sort=sort)
    return jobs[:limit], len(jobs) > limit


def events(session: Session, job: Job, *, after: int, limit: int) -> tuple[Sequence[JobEvent], bool]:
    """Up to `limit` events that follow number `after`, and whether there are more."""
    found = repository.events(session, job.id, after=after, limit=limit + 1)
    return found[:limit], len(found) > limit


def cancel(session: Session, project: str, job_id: str, by: str | None = None) -> Job:
    """Cancels a job that waits, or asks the worker of one that runs to stop. `by`: the key, for the audit log.

    Raises a 409 `Problem` where there is nothing to cancel, or where that was asked for already.
    """
    get(session, project, job_id)
    cancelled = transitions.cancelled(session, job_id, repository.without_worker(db.now(session)))
    if cancelled is not None:
        audit.note(session, project, by, audit.Action.JOB_CANCELLED, job_id)
        return cancelled
    asked = (Job.state == JobState.RUNNING) & Job.cancel_requested_at.is_(None)
    requested = transitions.cancel_requested(session, job_id, asked)
    if requested is not None:
        audit.note(session, project, by, audit.Action.JOB_CANCELLED, job_id)
        return requested
    raise _cannot_cancel(get(session, project, job_id))


def report(session: Session, project: str, job_id: str) -> dict[str, Any]:
    """The report of a job that succeeded. Raises a 409 `Problem` for any other."""
    return succeeded(session, project, job_id)[1]


def succeeded(session: Session, project: str, job_id: str) -> tuple[Job, dict[str, Any]]:
    """A job that succeeded, and its report. Raises a 409 `Problem` for any other."""
    job = get(session, project, job_id, with_report=True)
    if job.report is not None:
        return job, job.report
    raise _no_report(job)


def take_places(session: Session, settings: Settings, principal: Principal, new: int = 1) -> None:
    """Raises a 429 `Problem` where with so many new ones more jobs of the key would wait than may.

    Those that may run at a time wait for no place: where the key has a limit of running jobs, both limits together
    bound all that have not ended. No other request takes these places. Its other submissions wait until the
    transaction has ended, so call this after all that takes time.
    """
    keys.lock(session, principal.key_id)
    limits = Limits.of(settings, principal.limits)
    unended = repository.count_unended(session, principal.key_id)
    queued, running = unended[JobState.QUEUED], unended[JobState.RUNNING]
    if limits.running_jobs is None:
        taken, places = queued, limits.queued_jobs
    else:
        taken, places = queued + running, limits.queued_jobs + limits.running_jobs
    if taken + new > places:
        raise _too_many(limits, queued, running, new, places)


def check_references(session: Session, settings: Settings, project: str, spec: PruneSpec) -> None:
    """Raises an `EggsError` or a `Problem` for a model, text or task that cannot be had."""
    if layout.is_upload(spec.model):
        files.check_model(session, project, spec.model)
    elif s3_sources.is_s3(spec.model):
        s3_sources.check(settings, spec.model, ModelNotAllowed)
    else:
        resolve_model(spec.model, settings.model_roots, allow_hub=settings.allow_hub)
    for source in layout.texts(spec):
        if layout.is_upload(source):
            files.check_text(session, project, source)
        elif s3_sources.is_s3(source):
            s3_sources.check(settings, source, TextNotFound)
        else:
            check_text_source(source, settings.text_roots, allow_hub=settings.allow_hub)
    for task in spec.evaluation.tasks if spec.evaluation is not None else ():
        resolve_task(task, settings.task_roots, allow_hub=settings.allow_hub)


def _push(body: JobCreate) -> dict[str, Any] | None:
    push = body.output.push_to_hub
    return None if push is None else PushResource.model_validate(push.model_dump()).model_dump(mode="json")


def _check_push(settings: Settings, body: JobCreate) -> None:
    if not settings.allow_hub:
        raise Problem(
            "hub-not-used",
            "This installation does not use the Hugging Face Hub",
            422,
            "Leave output.push_to_hub out, and push what GET /v1/jobs/{job_id}/artifacts lists yourself.",
        )
    if body.hub_token is None and settings.hub_token is None:
        raise Problem(
            "hub-token-missing",
            "A push needs a token",
            422,
            "The service has no token of its own. Send one that may write to the repository as hub_token.",
        )


def _too_many(limits: Limits, queued: int, running: int, new: int, places: int) -> Problem:
    if limits.running_jobs is None:
        rule, room = f"Of this API key's jobs at most {limits.queued_jobs} may wait at a time", "started"
    else:
        rule = f"Of this API key's jobs at most {limits.running_jobs} may run at a time"
        rule, room = f"{rule}, and {limits.queued_jobs} wait besides", "ended"
    has = f"{running} are running and {queued} waiting"
    if new <= places:
        ask = f"Submit again once some have {room}."
    elif places:
        ask = f"Submit {places} at a time at most."
    else:
        ask = "Ask whoever has made the key, or the operator, for a higher limit."
    return Problem(
        "too-many-queued-jobs",
        "The API key has as many jobs as it may",
        429,
        f"{rule}; {has}, and {new} more would be too many. {ask}",
        headers={"Retry-After": "60"},
        limit=limits.queued_jobs,
        limits={"queued_jobs": limits.queued_jobs, "running_jobs": limits.running_jobs},
        jobs={"queued": queued, "running": running, "new": new},
    )


def _cannot_cancel(job: Job) -> Problem:
    if job.state is JobState.RUNNING:
        return Problem(
            "job-already-cancelled",
            "The job is being cancelled already",
            409,
            f"Its worker stops after the block at hand; follow GET /v1/jobs/{job.id}/events to see it end.",
        )
    if job.state is JobState.CANCELLED:
        return Problem(
            "job-already-cancelled",
            "The job is cancelled already",
            409,
            "Nothing is left to do. To run it after all, submit it again.",
        )
    return Problem(
        "job-already-finished",
        "The job has finished already",
        409,
        f"It has {job.state}, so there is nothing to cancel.",
    )


def _no_report(job: Job) -> Problem:
    if not job.state.final:
        title = "The job has no report yet"
        detail = (
            f"It is {job.state}. Ask again when its state is succeeded; GET /v1/jobs/{job.id}/events tells when."
        )
    else:
        title = "The job has no report"
        why = "Its `error` says why." if job.state is JobState.FAILED else "Submit it again to have one."
        detail = f"It has ended as {job.state}. {why}"
    return Problem("report-not-ready", title, 409, detail, state=job.state.value)
