"""HTTP on the audit log."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.audit import service
from app.audit.schemas import AuditEntryList, AuditEntryResource
from app.dependencies import AdminDep, SessionDep
from app.ids import id_pattern
from app.openapi import problems

router = APIRouter(prefix="/v1/audit", tags=["Audit"])


@router.get("", summary="List what was done", responses=problems(403))
def list_entries(
    session: SessionDep,
    principal: AdminDep,
    limit: Annotated[int, Query(ge=1, le=100, description="Entries on a page.")] = 20,
    after: Annotated[
        str | None, Query(pattern=id_pattern("audit"), description="`last_id` of the page before.")
    ] = None,
) -> AuditEntryList:
    """What was done in the project, and with which key, newest first. Needs the scope `admin`."""
    entries, more = service.page(session, principal.project, limit=limit, after=after)
    data = [AuditEntryResource.of(entry) for entry in entries]
    return AuditEntryList.of(data, more=more)
