"""HTTP on links."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from app.dependencies import KeyHolderDep, PrincipalDep, SessionDep, SharerDep
from app.jobs.endpoints import JobId
from app.openapi import problems
from app.shares import service
from app.shares.schemas import CreatedShare, ShareCreate, ShareDeleted, ShareList, ShareResource

router = APIRouter(tags=["Sharing"])

_OF_A_JOB = "/v1/jobs/{job_id}/shares"


@router.post(_OF_A_JOB, status_code=201, summary="Make a link to a job", responses=problems(403, 404))
def create(job_id: JobId, body: ShareCreate, session: SessionDep, principal: SharerDep) -> CreatedShare:
    """A link that shows this job to whoever has it: how it stands, its events, report, masks and files.

    It changes nothing, opens nothing else, and ends with the key that made it, which needs the scope `jobs:read`
    besides.
    """
    return CreatedShare.of_new(*service.create(session, principal, job_id, body.expires_at))


@router.get(_OF_A_JOB, summary="List a job's links", responses=problems(404))
def list_links(job_id: JobId, session: SessionDep, principal: PrincipalDep) -> ShareList:
    """The links of a job, the oldest first; some may be over."""
    return ShareList.of([ShareResource.of(link) for link in service.of_job(session, principal.project, job_id)])


@router.delete(f"{_OF_A_JOB}/{{share_id}}", summary="End a link", responses=problems(403, 404))
def delete(
    job_id: JobId,
    share_id: Annotated[str, Path(description="The link's id.", examples=["share_01jv3k0s9e6x7q2m4n8p5r1t0w"])],
    session: SessionDep,
    principal: PrincipalDep,
) -> ShareDeleted:
    """Ends a link at once."""
    service.delete(session, principal, job_id, share_id)
    return ShareDeleted(id=share_id)


@router.post(service.EXCHANGE, summary="Open a link", responses=problems(404))
def open_link(request: Request, response: Response, session: SessionDep, principal: KeyHolderDep) -> ShareResource:
    """Which job a link shows, for a page that sends its token; and a cookie with it, for that job's paths alone.

    A page cannot read the cookie, and it is sent to no other site's requests.
    """
    link = service.current(session, principal)
    response.set_cookie(
        service.COOKIE,
        request.headers["authorization"].partition(" ")[2].strip(),
        expires=link.expires_at,
        path=f"/v1/jobs/{link.job_id}",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return ShareResource.of(link)
