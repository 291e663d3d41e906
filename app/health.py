"""Probes for whoever runs the service: no key, and no detail a stranger could use."""

from collections.abc import MutableMapping
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.dependencies import DoorbellDep, ReadersDep
from app.examples import example
from app.readiness import Readiness, judge

router = APIRouter(tags=["Health"])


def is_probe(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request asks for one of these: they come every few seconds, and nobody wants their traces."""
    return any(scope.get("path") == route.path for route in router.routes if isinstance(route, APIRoute))


class Health(BaseModel):
    """The process is alive."""

    model_config = example({"status": "ok"})

    status: Literal["ok"] = "ok"


@router.get("/healthz", summary="Is the process alive?")
async def healthz() -> Health:
    """Answers as long as the process does; asks nothing else."""
    return Health()


@router.get(
    "/readyz",
    summary="Can requests be served?",
    responses={503: {"model": Readiness, "description": "Not ready."}},
)
async def readyz(response: Response, readers: ReadersDep, doorbell: DoorbellDep) -> Readiness:
    """200 where the database answers and its schema is current, else 503."""
    readiness = await run_in_threadpool(judge, readers, broker=await doorbell.reaches_broker())
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness
