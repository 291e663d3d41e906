"""Asks for an API key on everything under /v1, unknown paths too: it comes before any endpoint is looked for."""

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from app.db import DATABASE_DOWN
from app.keys import service
from app.keys.service import Principal
from app.problem_handlers import answer_to
from app.problems import Problem

PROTECTED = "/v1"


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
                principal = await run_in_threadpool(self._authenticate, Headers(scope=scope).get("authorization"))
            except (Problem, *DATABASE_DOWN) as error:
                return await answer_to(error)(scope, receive, send)
            scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _authenticate(self, authorization: str | None) -> Principal:
        if authorization is None:
            raise _unauthorized(
                "An API key is needed", "Send it as `Authorization: Bearer eggs_…`; `eggs keys create` makes one."
            )
        scheme, _, token = authorization.partition(" ")
        with self.readers.begin() as session:
            key = service.authenticate(session, token.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise _unauthorized(
                "The API key is not valid",
                "It is unknown, has expired or was revoked; `eggs keys create` makes a new one.",
            )
        if not service.use_is_noted(key):
            with self.sessions.begin() as session:
                service.note_use(session, key)
        return Principal(key.id, key.project, frozenset(map(service.Scope, key.scopes.split())))


def _unauthorized(title: str, detail: str) -> Problem:
    return Problem("unauthorized", title, 401, detail, headers={"WWW-Authenticate": 'Bearer realm="eggs"'})
