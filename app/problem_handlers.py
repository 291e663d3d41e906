"""Turns every exception that a request can end with into a problem document."""

import logging
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match

from app import logs
from app.db import DATABASE_DOWN
from app.problems import MEDIA_TYPE, Problem, document, from_error, internal_error
from eggs_core.errors import EggsError

_RETRY_AFTER_SECONDS = "5"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_HTTP = {
    400: (
        "unreadable-body",
        "The body cannot be read",
        "It is not JSON, is nested more deeply than any request, or holds a number that is too long.",
    ),
    404: ("not-found", "There is nothing at this path", "/openapi.json lists the paths, and /docs shows them."),
    405: ("method-not-allowed", "This path does not take that method", "The Allow header says which it takes."),
    408: ("request-timeout", "The request took too long to come", "Send it again, all at once."),
    413: (
        "content-too-large",
        "The request is too large",
        "Send less: no request needs a megabyte around the file it may upload.",
    ),
    431: ("headers-too-large", "The headers of the request are too large", "No request needs 64 KiB of them."),
    503: (
        "service-stopping",
        "The service is being stopped",
        "It has not waited for the end of this request, which may be done or not. Look, or send it again in a few "
        "seconds; one with an Idempotency-Key is done once.",
    ),
}
_MESSAGES = {
    "missing": "This field is required.",
    "unknown_parameter": "There is no such parameter. Check its spelling, or leave it out.",
    "extra_forbidden": "There is no such field. Check its spelling, or leave it out.",
    "too_short": "There should be {min_length} at least.",
    "too_long": "There should be {max_length} at most.",
}

logger = logging.getLogger(__name__)


def install(app: FastAPI) -> None:
    """Registers the handlers. What is none of these, `app.request_id` answers."""
    for kind in (Problem, EggsError, RequestValidationError, HTTPException, *DATABASE_DOWN):
        app.add_exception_handler(kind, _handle)


def answer_to(error: Exception) -> JSONResponse:
    """The answer to a request that ended with this exception."""
    match error:
        case Problem():
            return _answer(error.document, error.headers)
        case EggsError():
            return _answer(from_error(error))
        case RequestValidationError():
            return _answer(_not_valid(error))
        case HTTPException():
            status = error.status_code
            code, title, detail = _HTTP.get(
                status, (f"http-{status}", HTTPStatus(status).phrase, str(error.detail))
            )
            return _answer(document(code, title, status, detail), dict(error.headers or {}))
    if isinstance(error, DATABASE_DOWN):
        logger.error("The database cannot be reached: %s", error)
        return _answer(
            document(
                "database-unavailable",
                "The database cannot be reached",
                503,
                "Nothing was changed, unless it went away in the very moment of that; a request with an "
                "Idempotency-Key is done once. Try again in a few seconds; if it stays so, tell the operator.",
            ),
            {"Retry-After": _RETRY_AFTER_SECONDS},
        )
    logger.error("A request failed by a defect of the service", exc_info=error)
    return _answer(internal_error(str(logs.context()["request_id"])))


async def _handle(request: Request, error: Exception) -> JSONResponse:
    answer = answer_to(error)
    if answer.status_code == 405 and "allow" in answer.headers:  # of one route; a path has one for each method
        answer.headers["allow"] = ", ".join(filter(partial(_takes, request), _METHODS))
    return answer


def _takes(request: Request, method: str) -> bool:
    scope = {**request.scope, "method": method}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _answer(content: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(content, content["status"], headers, media_type=MEDIA_TYPE)


def _not_valid(error: RequestValidationError) -> dict[str, Any]:
    if isinstance(error.body, bytes):  # which FastAPI leaves as it came, unless its type says that it is JSON
        return document(
            "unsupported-media-type",
            "The body is not sent as JSON",
            415,
            "Send it with the header `Content-Type: application/json`, which `curl -d` alone does not.",
        )
    for item in error.errors():
        if item["type"] == "json_invalid":
            return document(
                "unreadable-body", _HTTP[400][1], 400, f"It is not JSON: {item['ctx']['error'].rstrip('.')}."
            )
    errors = [_describe(item) for item in error.errors()]
    detail = " ".join(
        f"{where}: {item['message']}" if (where := _where(item)) else item["message"] for item in errors
    )
    return document("invalid-request", "The request is not valid", 422, detail, errors=errors)


def _describe(item: dict[str, Any]) -> dict[str, str]:
    place, *path = item["loc"]
    message = _message(item)
    if place == "body":
        return {"pointer": "".join(f"/{part}" for part in path), "message": message}
    return {"parameter": ".".join(map(str, path)), "message": message}


def _message(item: dict[str, Any]) -> str:
    if item["type"] in _MESSAGES:
        return _MESSAGES[item["type"]].format_map(item.get("ctx", {}))
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, Exception):  # one of our own: it says all, where pydantic adds "Value error, "
        return str(cause)
    return str(item["msg"]).removesuffix(".") + "."


def _where(item: dict[str, str]) -> str:
    return item.get("parameter") or item.get("pointer", "").removeprefix("/").replace("/", ".")
