"""A hook of mkdocs: writes the operations and schemas of the OpenAPI document into docs/api.md."""

import json
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from mkdocs.structure.pages import Page

from app.main import create_app
from app.problems import MEDIA_TYPE
from app.settings import EmbeddedSettings

PAGE = "api.md"
MARK = "<!-- The operations and schemas of the OpenAPI document: docs/hooks/api_reference.py writes them here. -->"
_REF = "#/components/schemas/"

Json = dict[str, Any]


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """The page with its reference."""
    if page.file.src_uri != PAGE:
        return markdown
    before, after = markdown.split(MARK)
    return before + "\n".join(reference(openapi())) + after


def openapi() -> Json:
    """The document that the service has at /openapi.json."""
    with tempfile.TemporaryDirectory() as folder:
        return create_app(EmbeddedSettings(data_dir=Path(folder))).openapi()


def reference(document: Json) -> Iterator[str]:
    """The lines of the reference: operations by tag, what webhooks are sent, and schemas."""
    operations = [
        (operation["tags"][0], method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for tag, group in groupby(operations, key=lambda item: item[0]):
        yield f"## {tag}\n"
        for _, method, path, operation in group:
            yield from _operation(method, path, operation)
    yield "## What webhooks are sent\n"
    for name, methods in document["webhooks"].items():
        for method, operation in methods.items():
            yield from _operation(method, name, operation)
    yield "## Schemas\n"
    yield "A field that neither has a default nor is optional is always there, and has to be in a request.\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"### {operation['summary']}\n"
    yield f"`{method.upper()} {path}`\n"
    yield operation.get("description", "") + "\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| parameter | in | type | |"
        yield "|---|---|---|---|"
        for parameter in parameters:
            schema = {"description": parameter.get("description", "")} | parameter["schema"]
            yield _row(
                f"`{parameter['name']}`",
                parameter["in"],
                _type(schema),
                _about(schema, required=parameter.get("required", False)),
            )
        yield ""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"**Body**, `{kind}`: {_type(content.get('schema', {}))}.\n"
    answers = sorted(operation["responses"].items())
    for title, problems in ("Answers", False), ("Problems", True):
        said = [f"{status} {_told(answer)}" for status, answer in answers if _is_problem(answer) is problems]
        if said:
            yield f"**{title}**: {'; '.join(said)}.\n"


def _is_problem(answer: Json) -> bool:
    return MEDIA_TYPE in answer.get("content", {})


def _told(answer: Json) -> str:
    text = str(answer["description"]).removesuffix(".").replace("Successful Response", "")
    return text if _is_problem(answer) else text + _contents(answer)


def _contents(answer: Json) -> str:
    types = [
        f"`{kind}`" + (f", {_type(content['schema'])}" if content.get("schema") else "")
        for kind, content in answer.get("content", {}).items()
    ]
    return f" ({' or '.join(types)})" if types else ""


def _schema(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name} {{ #{name} }}\n"
    yield schema.get("description", "") + "\n"
    properties = schema.get("properties")
    if properties is None:
        yield f"{_type(schema)}\n"
        return
    yield "| field | type | |"
    yield "|---|---|---|"
    for field, value in properties.items():
        yield _row(f"`{field}`", _type(value), _about(value, required=field in schema.get("required", [])))
    yield ""
    if schema.get("examples"):
        yield '??? example "Example"\n\n    ```json'
        text = json.dumps(schema["examples"][0], indent=2, ensure_ascii=False)
        yield "\n".join(f"    {line}" for line in text.splitlines())
        yield "    ```\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"


def _about(schema: Json, *, required: bool) -> str:
    """What is said of a field or parameter, what it has to be, and what it is if left out."""
    text = schema.get("description", "")
    rules = [f"{word} {_number(schema[rule])}" for rule, word in _RULES.items() if rule in schema]
    if "default" in schema:
        rules.append(f"default `{json.dumps(schema['default'], ensure_ascii=False)}`")
    elif not required:
        rules.append("optional")
    return f"{text} ({'; '.join(rules)})" if rules else text


def _number(value: float) -> float:
    return int(value) if value == int(value) else value


_RULES = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
    "minItems": "entries at least",
    "maxItems": "entries at most",
    "maxLength": "characters at most",
}


def _type(schema: Json) -> str:
    """The type in words; that of a schema with a name of its own leads there."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return f"[{name}](#{name})"
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(map(_type, schema[union]))
    if "allOf" in schema:
        return " and ".join(map(_type, schema["allOf"]))
    match schema.get("type"):
        case "array":
            items = [_type(item) for item in schema.get("prefixItems", [schema.get("items", {})])]
            return f"array of {', '.join(items)}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
        case None:
            return "anything"
        case kind:
            return f"{kind} ({schema['format']})" if "format" in schema else str(kind)
