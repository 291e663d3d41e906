"""Asks for an API key, a session or a link on everything under /v1, before any endpoint is looked for."""

import logging
from functools import partial

from sqlalchemy.orm import Session, sessionmaker
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.db import DATABASE_DOWN
from app.keys import scopes, service
from app.keys.limits import KeyLimits
from app.keys.models import ApiKey
from app.keys.service import Principal
from app.problem_handlers import answer_to
from app.problems import Problem
from app.sessions import service as browser_sessions
from app.shares import service as shares

PROTECTED = "/v1"
_SAFE = ("GET", "HEAD", "OPTIONS")

logger = logging.getLogger(__name__)


class KeyMiddleware:
    """Puts the `Principal` of a request under /v1 into its state, or answers 401."""

    def __init__(self, app: ASGIApp, readers: sessionmaker[Session], sessions: sessionmaker[Session]) -> None:
        self.app = app
        self.readers = readers
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{PROTECTED}/"):
            authenticate = partial(self._authenticate, HTTPConnection(scope), scope["method"])
            try:
                principal = await run_in_threadpool(authenticate)
            except (Problem, *DATABASE_DOWN) as error:
                return await answer_to(error)(scope, receive, send)
            # An answer that takes long asks again whether it may go on.
            scope.setdefault("state", {}).update(principal=principal, authenticate=authenticate)
        await self.app(scope, receive, send)

    def _authenticate(self, connection: HTTPConnection, method: str) -> Principal:
        authorization = connection.headers.get("authorization")
        cookie = connection.cookies.get(browser_sessions.COOKIE)
        if authorization is not None:
            scheme, _, token = authorization.partition(" ")
            token = token.strip() if scheme.lower() == "bearer" else ""
            return self._by_link(token, connection, method) if shares.is_token(token) else self._by_key(token)
        linked = self._by_cookie_of_link(connection, method)
        if cookie is None:
            if linked is not None:
                return linked
            raise _unauthorized(
                "An API key is needed", "Send it as `Authorization: Bearer eggs_…`; `eggs keys create` makes one."
            )
        try:
            own = self._by_session(cookie, connection, method)
        except Problem:
            if linked is None:
                raise
            return linked
        # Who is signed in may do more with a job of the project, and finds nothing of another one's.
        return own if linked is None or own.project == linked.project else linked

    def _by_key(self, token: str) -> Principal:
        with self.readers.begin() as session:
            key = service.authenticate(session, token)
        if key is None:
            raise _unauthorized(
                "The API key is not valid",
                "It is unknown, has expired or was revoked; `eggs keys create` makes a new one.",
            )
        return self._used(key)

    def _by_session(self, cookie: str, connection: HTTPConnection, method: str) -> Principal:
        # Browsers send cookies by themselves, whoever's page asks; this header only a page of ours can add.
        if method not in _SAFE and browser_sessions.CSRF_HEADER not in connection.headers:
            raise Problem(
                "session-header-missing",
                "The request may come from another site's page",
                403,
                f"Where a cookie is to change something, send the header {browser_sessions.CSRF_HEADER} with "
                "it, with any value; or send an API key.",
            )
        with self.readers.begin() as session:
            found = browser_sessions.authenticate(session, cookie)
        if found is None:
            raise _unauthorized(
                "The session is over",
                "It has expired, was ended, or its key was. Sign in again, with an API key; `eggs keys create` "
                "makes one.",
            )
        session_id, key = found
        return self._used(key, session_id)

    def _by_link(self, token: str, connection: HTTPConnection, method: str) -> Principal:
        with self.readers.begin() as session:
            found = shares.authenticate(session, token)
        if found is None or found.link is None:
            raise _unauthorized(
                "The link is over", "It has expired or was ended. Ask whoever sent it for a new one."
            )
        if not shares.opens(found.link[1], method, connection.scope["path"]):
            raise Problem(
                "link-opens-one-job",
                "The link does not open this",
                403,
                f"It shows {found.link[1]}, and nothing else. For more, send an API key.",
            )
        return found

    def _by_cookie_of_link(self, connection: HTTPConnection, method: str) -> Principal | None:
        """Whoever has opened the link whose cookie is sent, where it opens this."""
        token = connection.cookies.get(shares.COOKIE)
        if token is None or method not in _SAFE:
            return None
        try:
            return self._by_link(token, connection, method)
        except Problem:
            return None

    def _used(self, key: ApiKey, session_id: str | None = None) -> Principal:
        if not service.use_is_noted(key):
            try:
                with self.sessions.begin() as session:
                    service.note_use(session, key)
            except DATABASE_DOWN as error:  # one whose disk is full can still be read
                logger.warning("The use of %s is not noted: %s", key.id, error)
        allowed = frozenset(map(scopes.Scope, key.scopes.split()))
        return Principal(key.id, key.project, allowed, session_id, limits=KeyLimits.of(key))


def _unauthorized(title: str, detail: str) -> Problem:
    return Problem("unauthorized", title, 401, detail, headers={"WWW-Authenticate": 'Bearer realm="eggs"'})
