"""HTTP on estimates."""

from anyio import to_thread
from fastapi import APIRouter, Request

from app.dependencies import PrincipalDep, ReadersDep, SettingsDep
from app.estimates import service
from app.estimates.schemas import Estimate
from app.jobs.schemas import JobCreate
from app.openapi import problems

router = APIRouter(prefix="/v1/estimates", tags=["Jobs"])


@router.post("", summary="Estimate a job", responses=problems(403, 404, 507))
async def estimate(
    body: JobCreate, request: Request, readers: ReadersDep, settings: SettingsDep, principal: PrincipalDep
) -> Estimate:
    """What a job would take and leave, from the request that `POST /v1/jobs` takes. Nothing is stored.

    Sizes come from the model's own files, or from a job of it; memory and time from the project's jobs with the
    same method and effort. What neither tells is null, and `basis` says why.
    """

    def of_body() -> Estimate:
        with readers() as session:
            return service.estimate(session, settings, principal.project, body)

    # Not in the threads that all requests share: the headers of a model's files may take seconds to parse.
    return await to_thread.run_sync(of_body, limiter=request.app.state.estimators)
