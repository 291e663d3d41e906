"""What endpoints ask for: a session, the settings, and on whose behalf they act.

Those that wait for nothing are coroutines, as FastAPI takes a turn in its threads for each that is not.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request, Security
from fastapi.concurrency import contextmanager_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts.store import Store
from app.keys.scopes import Scope
from app.keys.service import Principal
from app.problems import Problem
from app.queue import Doorbell
from app.secrets import Secrets
from app.sessions.service import COOKIE, CSRF_HEADER
from app.settings import Settings


async def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


async def _readers(request: Request) -> sessionmaker[Session]:
    return request.app.state.readers  # type: ignore[no-any-return]


async def _sessions(request: Request) -> sessionmaker[Session]:
    return request.app.state.sessions  # type: ignore[no-any-return]


async def _store(request: Request) -> Store:
    return request.app.state.store  # type: ignore[no-any-return]


async def _secrets(request: Request) -> Secrets:
    return request.app.state.secrets  # type: ignore[no-any-return]


async def _doorbell(request: Request) -> Doorbell:
    return request.app.state.doorbell  # type: ignore[no-any-return]


async def _session(request: Request) -> AsyncIterator[Session]:
    # FastAPI keeps a session while its request waits for another of its threads to write the answer with. Without
    # a bound, under load all threads would come to wait for connections, and all connections for threads.
    async with request.app.state.turns:
        if _reads(request):
            with request.app.state.readers() as session:  # neither its begin nor its end waits for anything
                yield session
        else:
            async with contextmanager_in_threadpool(request.app.state.sessions.begin()) as session:
                yield session


def _reads(request: Request) -> bool:
    return request.method in ("GET", "HEAD")


# For OpenAPI alone; `app.keys.middleware` has checked the key before any endpoint is looked for.
_KeyInOpenAPI = Annotated[
    HTTPAuthorizationCredentials | None,
    Security(
        HTTPBearer(
            scheme_name="ApiKey",
            bearerFormat="eggs_…",
            description="An API key, as `eggs keys create` prints it.",
            auto_error=False,
        )
    ),
]
_CookieInOpenAPI = Annotated[
    str | None,
    Security(
        APIKeyCookie(
            name=COOKIE,
            scheme_name="Session",
            description="The cookie that `POST /v1/session` sets. Requests other than GET and HEAD need "
            f"the header `{CSRF_HEADER}` besides, with any value.",
            auto_error=False,
        )
    ),
]


async def _key_holder(request: Request, _key: _KeyInOpenAPI, _cookie: _CookieInOpenAPI) -> Principal:
    """Whoever has a key, whatever it may be used for."""
    return request.state.principal  # type: ignore[no-any-return]


KeyHolderDep = Annotated[Principal, Depends(_key_holder)]


async def _principal(request: Request, principal: KeyHolderDep) -> Principal:
    """Whoever may read jobs, or change them where the request does."""
    return _allowed(principal, Scope.JOBS_READ if _reads(request) else Scope.JOBS_WRITE)


PrincipalDep = Annotated[Principal, Depends(_principal)]


async def _sharer(principal: PrincipalDep) -> Principal:
    """Whoever may change jobs and read them: a link lets others read, and nobody gives what they do not have."""
    return _allowed(principal, Scope.JOBS_READ)


async def _admin(principal: KeyHolderDep) -> Principal:
    return _allowed(principal, Scope.ADMIN)


def _allowed(principal: Principal, scope: Scope) -> Principal:
    if scope not in principal.scopes:
        raise Problem(
            "scope-missing",
            "The API key may not be used for this",
            403,
            f"It lacks the scope {scope}. Use a key that has it; `eggs keys create --scope {scope}` makes one.",
            scope=scope.value,
        )
    return principal


async def known_parameters(request: Request) -> None:
    """Refuses what no endpoint would look at: a list would be had whole where a filter was misspelt."""
    route = request.scope["route"]
    # Clients may ask for a page of any list, also of those that have one alone.
    known = {field.alias for field in route.dependant.query_params} | {"limit", "after"}
    # Objects, each of whose members is a parameter of its own.
    prefixes = tuple(f"{one['name']}." for one in (route.openapi_extra or {}).get("parameters", ()))
    unknown = [name for name in request.query_params if name not in known and not name.startswith(prefixes)]
    if unknown:
        raise RequestValidationError(
            [{"type": "unknown_parameter", "loc": ("query", name), "msg": "", "input": None} for name in unknown]
        )


SettingsDep = Annotated[Settings, Depends(_settings)]
ReadersDep = Annotated[sessionmaker[Session], Depends(_readers)]
SessionsDep = Annotated[sessionmaker[Session], Depends(_sessions)]
StoreDep = Annotated[Store, Depends(_store)]
SecretsDep = Annotated[Secrets, Depends(_secrets)]
DoorbellDep = Annotated[Doorbell, Depends(_doorbell)]
# scope="function": commits before the answer is sent, so that a failed commit is not answered with success.
SessionDep = Annotated[Session, Depends(_session, scope="function")]
SharerDep = Annotated[Principal, Depends(_sharer)]
AdminDep = Annotated[Principal, Depends(_admin)]
