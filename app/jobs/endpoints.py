"""HTTP on jobs."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import StringConstraints

from app import idempotency, logs
from app.artifacts import service as artifacts
from app.dependencies import DoorbellDep, PrincipalDep, ReadersDep, SecretsDep, SessionDep, SettingsDep
from app.idempotency import IdempotencyKeyHeader
from app.jobs import service, sse
from app.jobs.lineage import Lineage
from app.jobs.models import JobSort, JobState
from app.jobs.repository import Filter
from app.jobs.schemas import (
    JOB_ID_PATTERN,
    MAX_SEQUENCE,
    SWEEP_ID_PATTERN,
    JobCreate,
    JobEventList,
    JobEventResource,
    JobList,
    JobResource,
)
from app.openapi import problems
from app.problems import Problem
from app.queue import Doorbell
from eggs_core.report import Report
from eggs_core.spec import Method

logger = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

JobId = Annotated[str, Path(description="The job's id.", examples=["job_01jv3k0s9e6x7q2m4n8p5r1t0w"])]


@router.post("", status_code=201, summary="Submit a job", responses=problems(403, 422, 429))
def submit(
    body: JobCreate,
    request: Request,
    response: Response,
    background: BackgroundTasks,
    session: SessionDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    secrets: SecretsDep,
    doorbell: DoorbellDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> JobResource:
    """Checks the request and queues the job; a worker takes it as soon as one is free.

    A model or text that cannot be had is refused here. What only shows in the model itself (a layer that the
    pattern does not fit, say) fails the job early, with a problem in its `error`.
    """
    job, replayed = service.submit(session, settings, secrets, principal, body, idempotency_key)
    idempotency.answer(request, response, "get_job", replayed, job_id=job.id)
    if not replayed:
        background.add_task(announce, doorbell, job.id)  # runs after the answer, and so after the commit
    return JobResource.of(job)


async def announce(doorbell: Doorbell, job_id: str) -> None:
    """Rings for a new job, once it is committed."""
    with logs.bound(job_id=job_id):
        logger.info("Submitted")
        await doorbell.ring(job_id)


METADATA = "metadata."
_METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "style": "form",
    "explode": True,
    "description": "Only jobs whose metadata have this value under KEY: `metadata.KEY=value`. Of several all must "
    "hold.",
    "schema": {
        "type": "object",
        "patternProperties": {r"^metadata\.[a-z]+$": {"type": "string", "pattern": r"^[^\x00]*$"}},
        "additionalProperties": False,
    },
    "example": {"metadata.team": "research"},
}
Text = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\x00]*$")]


def _metadata(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    found = {name.removeprefix(METADATA): value for name, value in pairs if name.startswith(METADATA)}
    if any("\0" in text for pair in found.items() for text in pair):
        raise Problem(
            "invalid-request",
            "The request is not valid",
            422,
            "No metadata hold a NUL character. Remove it from the query.",
        )
    return found


@router.get("", summary="List jobs", openapi_extra={"parameters": [_METADATA_PARAMETER]})
def list_jobs(
    request: Request,
    session: SessionDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Jobs on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=JOB_ID_PATTERN, description="`last_id` of the page before.")
    ] = None,
    state: Annotated[JobState | None, Query(description="Only jobs in this state.")] = None,
    model: Annotated[Text | None, Query(description="Only jobs of this model, as they name it.")] = None,
    method: Annotated[Method | None, Query(description="Only jobs with this method.")] = None,
    sweep: Annotated[str | None, Query(pattern=SWEEP_ID_PATTERN, description="Only jobs of this sweep.")] = None,
    q: Annotated[Text | None, Query(description="Only jobs with this in their name, model or id.")] = None,
    sort: Annotated[
        JobSort, Query(description="What they are sorted by; with `-` the last comes first.")
    ] = JobSort.CREATED_LAST,
) -> JobList:
    """The project's jobs, newest first unless `sort` says otherwise. A page follows on one with the same query."""
    wanted = Filter(state=state, model=model, method=method, sweep=sweep, metadata=_metadata(request), text=q)
    jobs, more = service.page(session, principal.project, limit=limit, after=after, wanted=wanted, sort=sort)
    data = [JobResource.of(job) for job in jobs]
    return JobList.of(data, more=more)


@router.get("/{job_id}", summary="Get a job", responses=problems(404))
def get_job(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> JobResource:
    """One job, as it stands now."""
    return JobResource.of(service.get(session, principal.project, job_id))


@router.post("/{job_id}/cancel", summary="Cancel a job", responses=problems(404, 409))
def cancel(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> JobResource:
    """A job that waits is cancelled at once; one that runs stops after the block at hand."""
    return JobResource.of(service.cancel(session, principal.project, job_id, principal.key_id))


@router.get(
    "/{job_id}/events",
    summary="Read or follow a job's events",
    response_model=JobEventList,
    responses={
        **problems(404),
        200: {
            "description": "A page of events; or, with `Accept: text/event-stream`, every event as it comes: `id` "
            "is its number, `event` its type, `data` the event as JSON. The stream ends with the job.",
            "content": {sse.MEDIA_TYPE: {"schema": {"type": "string"}}},
        },
    },
)
def events(
    job_id: JobId,
    request: Request,
    session: SessionDep,
    readers: ReadersDep,
    principal: PrincipalDep,
    after: Annotated[int, Query(ge=0, le=MAX_SEQUENCE, description="`last_id` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=100, description="Events on a page.")] = 20,
    last_event_id: Annotated[
        int | None,
        Header(
            alias="Last-Event-ID",
            ge=0,
            le=MAX_SEQUENCE,
            description="For a stream: the last event that was received.",
        ),
    ] = None,
) -> Any:
    """What has happened to a job, oldest first: as pages, or live as server-sent events."""
    job = service.get(session, principal.project, job_id)
    if sse.MEDIA_TYPE in request.headers.get("accept", ""):
        last = after if last_event_id is None else last_event_id
        return sse.stream(
            readers, request.app.state.watch, request.state.authenticate, principal.project, job_id, last
        )
    found, more = service.events(session, job, after=after, limit=limit)
    data = [JobEventResource.of(event) for event in found]
    return JobEventList.of(data, more=more)


@router.get("/{job_id}/report", summary="Get a job's report", response_model=Report, responses=problems(404, 409))
def report(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> JSONResponse:
    """What came out of a job: sizes, sparsity, the comparison with the dense model, and figures for each layer."""
    return JSONResponse(service.report(session, principal.project, job_id))


@router.get("/{job_id}/lineage", summary="Get what led to a job's checkpoint", responses=problems(404, 409))
def lineage(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> Lineage:
    """Base model and revision, the data's fingerprints, the code's versions, and the checksums of the result."""
    job, report = service.succeeded(session, principal.project, job_id)
    return Lineage.of(job, report, artifacts.of_job(session, job))
