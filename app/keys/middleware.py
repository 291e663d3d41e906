"""Asks for an API key, or a session made with one, on everything under /v1, before any endpoint is looked for."""

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.db import DATABASE_DOWN
from app.keys import service
from app.keys.models import ApiKey
from app.keys.service import Principal
from app.problem_handlers import answer_to
from app.problems import Problem
from app.sessions import service as browser_sessions

PROTECTED = "/v1"
_SAFE = ("GET", "HEAD", "OPTIONS")


class KeyMiddleware:
    """Puts the `Principal` of a request under /v1 into its state, or answers 401."""

    def __init__(self, app: ASGIApp, readers: sessionmaker[Session], sessions: sessionmaker[Session]) -> None:
        self.app = app
        self.readers = readers
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PROTECTED}/"):
            try:
                principal = await run_in_threadpool(self._authenticate, HTTPConnection(scope), scope["method"])
            except (Problem, *DATABASE_DOWN) as error:
                return await answer_to(error)(scope, receive, send)
            scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _authenticate(self, connection: HTTPConnection, method: str) -> Principal:
        authorization = connection.headers.get("authorization")
        cookie = connection.cookies.get(browser_sessions.COOKIE)
        session_id = None
        if authorization is not None:
            key = self._key_of(authorization)
        elif cookie is not None:
            # Browsers send cookies by themselves, whoever's page asks; this header only a page of ours can add.
            if method not in _SAFE and browser_sessions.CSRF_HEADER not in connection.headers:
                raise Problem(
                    "session-header-missing",
                    "The request may come from another site's page",
                    403,
                    f"Where a cookie is to change something, send the header {browser_sessions.CSRF_HEADER} with "
                    "it, with any value; or send an API key.",
                )
            session_id, key = self._key_of_session(cookie)
        else:
            raise _unauthorized(
                "An API key is needed", "Send it as `Authorization: Bearer eggs_…`; `eggs keys create` makes one."
            )
        if not service.use_is_noted(key):
            with self.sessions.begin() as session:
                service.note_use(session, key)
        return Principal(key.id, key.project, frozenset(map(service.Scope, key.scopes.split())), session_id)

    def _key_of(self, authorization: str) -> ApiKey:
        scheme, _, token = authorization.partition(" ")
        with self.readers.begin() as session:
            key = service.authenticate(session, token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise _unauthorized(
                "The API key is not valid",
                "It is unknown, has expired or was revoked; `eggs keys create` makes a new one.",
            )
        return key

    def _key_of_session(self, cookie: str) -> tuple[str, ApiKey]:
        with self.readers.begin() as session:
            found = browser_sessions.authenticate(session, cookie)
        if found is None:
            raise _unauthorized(
                "The session is over",
                "It has expired, was ended, or its key was. Sign in again, with an API key; `eggs keys create` "
                "makes one.",
            )
        return found


def _unauthorized(title: str, detail: str) -> Problem:
    return Problem("unauthorized", title, 401, detail, headers={"WWW-Authenticate": 'Bearer realm="eggs"'})
