"""HTTP on workers."""

from fastapi import APIRouter

from app.dependencies import AdminDep, SessionDep, SettingsDep
from app.openapi import problems
from app.workers import service
from app.workers.schemas import WorkerList, WorkerResource

router = APIRouter(prefix="/v1/workers", tags=["Workers"])


@router.get("", summary="List workers", responses=problems(403))
def list_workers(session: SessionDep, settings: SettingsDep, principal: AdminDep) -> WorkerList:
    """The workers of the installation, the oldest first. Needs the scope `admin`.

    They are there for all projects, and none learns of the others' jobs, nor how many there are.
    """
    found = service.all_workers(session, principal.project, settings.lease_seconds)
    return WorkerList.of([WorkerResource.of(seen) for seen in found])
