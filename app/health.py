"""Probes for whoever runs the service: no key, and no detail a stranger could use."""

from collections.abc import MutableMapping
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field

from app.db import DATABASE_DOWN
from app.dependencies import CeleryDep, ReadersDep
from app.examples import example
from app.migrate import is_current
from app.queue import waiting_messages

router = APIRouter(tags=["Health"])


def is_probe(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request asks for one of these: they come every few seconds, and nobody wants their traces."""
    return any(scope.get("path") == route.path for route in router.routes if isinstance(route, APIRoute))


class Health(BaseModel):
    """The process is alive."""

    model_config = example({"status": "ok"})

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether requests can be served, and what stands in the way."""

    model_config = example({"status": "ready", "database": "ok", "migrations": "current", "broker": "ok"})

    status: Literal["ready", "not_ready"]
    database: Literal["ok", "unreachable"]
    migrations: Literal["current", "behind", "unknown"] = Field(
        description="`behind`: run `eggs migrate`, or start the service anew, which does it."
    )
    broker: Literal["ok", "unreachable"] = Field(
        description="Jobs are accepted while it is unreachable, and start once it is back."
    )


@router.get("/healthz", summary="Is the process alive?")
def healthz() -> Health:
    """Answers as long as the process does; asks nothing else."""
    return Health()


@router.get(
    "/readyz",
    summary="Can requests be served?",
    responses={503: {"model": Readiness, "description": "Not ready."}},
)
def readyz(response: Response, readers: ReadersDep, celery: CeleryDep) -> Readiness:
    """200 where the database answers and its schema is current, else 503."""
    database: Literal["ok", "unreachable"] = "ok"
    migrations: Literal["current", "behind", "unknown"] = "unknown"
    try:
        with readers.begin() as session:
            migrations = "current" if is_current(session.connection()) else "behind"
    except DATABASE_DOWN:
        database = "unreachable"
    ready = migrations == "current"
    response.status_code = 200 if ready else 503
    return Readiness(
        status="ready" if ready else "not_ready",
        database=database,
        migrations=migrations,
        broker="unreachable" if waiting_messages(celery) is None else "ok",
    )
