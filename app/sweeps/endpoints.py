"""HTTP on sweeps."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Path, Query, Request, Response

from app import idempotency
from app.dependencies import DoorbellDep, PrincipalDep, SessionDep, SettingsDep
from app.idempotency import IdempotencyKeyHeader
from app.jobs.endpoints import announce
from app.jobs.schemas import SWEEP_ID_PATTERN
from app.openapi import problems
from app.sweeps import comparison, service
from app.sweeps.schemas import SWEEP_ID, SweepCreate, SweepList, SweepResource

router = APIRouter(prefix="/v1/sweeps", tags=["Sweeps"])

SweepId = Annotated[str, Path(description="The sweep's id.", examples=[SWEEP_ID])]


@router.post("", status_code=201, summary="Submit a sweep", responses=problems(403, 422, 429))
def submit(
    body: SweepCreate,
    request: Request,
    response: Response,
    background: BackgroundTasks,
    session: SessionDep,
    settings: SettingsDep,
    principal: PrincipalDep,
    doorbell: DoorbellDep,
    idempotency_key: IdempotencyKeyHeader = None,
) -> SweepResource:
    """Queues the jobs of several trials over one model: all of them, or none where one is refused."""
    sweep, replayed = service.submit(session, settings, principal, body, idempotency_key)
    idempotency.answer(request, response, "get_sweep", replayed, sweep_id=sweep.id)
    if not replayed:
        for job_id in dict.fromkeys(trial["job_id"] for trial in sweep.trials):
            background.add_task(announce, doorbell, job_id)
    return comparison.resource(session, sweep)


@router.get("", summary="List sweeps")
def list_sweeps(
    session: SessionDep,
    principal: PrincipalDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Sweeps on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=SWEEP_ID_PATTERN, description="`last_id` of the page before.")
    ] = None,
) -> SweepList:
    """The project's sweeps, newest first."""
    sweeps, more = service.page(session, principal.project, limit=limit, after=after)
    return SweepList.of(sweeps, more=more)


@router.get("/{sweep_id}", summary="Get a sweep", responses=problems(404))
def get_sweep(sweep_id: SweepId, session: SessionDep, principal: PrincipalDep) -> SweepResource:
    """One sweep, its trials side by side with what has come of them so far."""
    return comparison.resource(session, service.get(session, principal.project, sweep_id))


@router.post("/{sweep_id}/cancel", summary="Cancel a sweep", responses=problems(404, 409))
def cancel(sweep_id: SweepId, session: SessionDep, principal: PrincipalDep) -> SweepResource:
    """Cancels what has not ended of it; jobs that run stop after the block at hand."""
    return comparison.resource(session, service.cancel(session, principal, sweep_id))
