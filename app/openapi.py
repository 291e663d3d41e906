"""What the OpenAPI document says beyond what FastAPI derives: problem answers, and an example on every schema."""

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app import examples
from app.problems import MEDIA_TYPE, ProblemDocument

Schema = dict[str, Any]

_REF = "#/components/schemas/"
# For schemas of eggs_core, which knows nothing of OpenAPI; those they contain take their part of these.
_EXAMPLES: dict[str, Any] = {
    "BlockTraining": examples.BLOCK_TRAINING,
    "HubPush": examples.HUB_PUSH,
    "PruneSpec": examples.SPEC,
    "Report": examples.REPORT,
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documents that an operation answers with problems of these statuses."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"{_REF}Problem"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def install(app: FastAPI) -> None:
    """Makes the application answer with the completed document, made once."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                    webhooks=app.webhooks.routes,
                    tags=app.openapi_tags,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    for operations in document["paths"].values():
        for operation in operations.values():
            if "requestBody" in operation:  # which may be unreadable, too slow, too large, or of another type
                for status, answer in problems(400, 408, 413, 415).items():
                    operation["responses"].setdefault(str(status), answer)
    schemas: dict[str, Schema] = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = ProblemDocument.model_json_schema()
    for name, example in _EXAMPLES.items():
        schemas[name]["examples"] = [example]
    for schema in list(schemas.values()):
        if "enum" in schema:
            schema.setdefault("examples", schema["enum"][:1])
        elif "examples" in schema:
            _spread(schema, schema["examples"][0], schemas)
    return document


def _spread(schema: Schema, example: Any, schemas: dict[str, Schema]) -> None:
    """Gives the schemas that this one is made of their part of its example, where they have none of their own."""
    for option in schema.get("anyOf", []) if example is not None else []:
        _spread(option, example, schemas)
    if (name := schema.get("$ref", "").removeprefix(_REF)) and "examples" not in schemas[name]:
        schemas[name]["examples"] = [example]
        _spread(schemas[name], example, schemas)
    elif isinstance(example, list) and example:
        _spread(schema.get("items", {}), example[0], schemas)
    elif isinstance(example, dict):
        for key, part in example.items():
            _spread(schema.get("properties", {}).get(key, {}), part, schemas)
