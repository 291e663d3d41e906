"""What endpoints ask for: a session, the settings, and on whose behalf they act."""

from collections.abc import Iterator
from typing import Annotated

from celery import Celery
from fastapi import Depends, Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session, sessionmaker

from app.keys.service import Principal
from app.settings import Settings


def _settings(request: Request) -> Settings:
    return request.app.state.settings  # type: ignore[no-any-return]


def _readers(request: Request) -> sessionmaker[Session]:
    return request.app.state.readers  # type: ignore[no-any-return]


def _celery(request: Request) -> Celery:
    return request.app.state.celery


def _session(request: Request) -> Iterator[Session]:
    reads = request.method in ("GET", "HEAD")
    with (request.app.state.readers if reads else request.app.state.sessions).begin() as session:
        yield session


def _principal(
    request: Request,
    # For OpenAPI alone; `app.keys.middleware` has checked the key before any endpoint is looked for.
    _: Annotated[
        HTTPAuthorizationCredentials | None,
        Security(
            HTTPBearer(
                scheme_name="ApiKey",
                bearerFormat="eggs_…",
                description="An API key, as `eggs keys create` prints it.",
                auto_error=False,
            )
        ),
    ],
) -> Principal:
    return request.state.principal  # type: ignore[no-any-return]


SettingsDep = Annotated[Settings, Depends(_settings)]
ReadersDep = Annotated[sessionmaker[Session], Depends(_readers)]
CeleryDep = Annotated[Celery, Depends(_celery)]
# scope="function": commits before the answer is sent, so that a failed commit is not answered with success.
SessionDep = Annotated[Session, Depends(_session, scope="function")]
PrincipalDep = Annotated[Principal, Depends(_principal)]
