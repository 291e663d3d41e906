"""HTTP on the session that a browser has: there is one at most, so its path needs no id."""

from fastapi import APIRouter, Request, Response

from app.dependencies import KeyHolderDep, SessionDep
from app.openapi import problems
from app.sessions import service
from app.sessions.schemas import SessionEnded, SessionResource

router = APIRouter(prefix="/v1/session", tags=["Session"])

# The page is at `/`, all that it asks for below this.
_PATH = "/v1"


@router.post("", status_code=201, summary="Sign in", responses=problems(403))
def sign_in(request: Request, response: Response, session: SessionDep, principal: KeyHolderDep) -> SessionResource:
    """Exchanges the key that is sent for a cookie, which opens what the key does for twelve hours.

    A page cannot read the cookie, and it is sent to no other site's requests. Where it is to change something, the
    header `X-Eggs-Session` has to come with it, with any value.
    """
    browser, token = service.create(session, principal)
    response.set_cookie(
        service.COOKIE,
        token,
        max_age=int(service.LASTS.total_seconds()),
        path=_PATH,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return SessionResource.of(browser, principal)


@router.get("", summary="Get the session", responses=problems(404))
def get_session(session: SessionDep, principal: KeyHolderDep) -> SessionResource:
    """Who is signed in, and until when."""
    return SessionResource.of(service.current(session, principal), principal)


@router.delete("", summary="Sign out", responses=problems(404))
def sign_out(request: Request, response: Response, session: SessionDep, principal: KeyHolderDep) -> SessionEnded:
    """Ends the session at once; its cookie opens nothing any more."""
    ended = SessionEnded(id=service.end(session, principal))
    response.delete_cookie(
        service.COOKIE, path=_PATH, secure=request.url.scheme == "https", httponly=True, samesite="strict"
    )
    return ended
