"""HTTP on estimates."""

from fastapi import APIRouter

from app.dependencies import PrincipalDep, ReadersDep, SettingsDep
from app.estimates import service
from app.estimates.schemas import Estimate
from app.jobs.schemas import JobCreate
from app.openapi import problems

router = APIRouter(prefix="/v1/estimates", tags=["Jobs"])


@router.post("", summary="Estimate a job", responses=problems(403, 404, 507))
def estimate(body: JobCreate, readers: ReadersDep, settings: SettingsDep, principal: PrincipalDep) -> Estimate:
    """What a job would take and leave, from the request that `POST /v1/jobs` takes. Nothing is stored.

    Sizes come from the model's own files, or from a job of it; memory and time from the project's jobs with the
    same method and effort. What neither tells is null, and `basis` says why.
    """
    with readers() as session:
        return service.estimate(session, settings, principal.project, body)
