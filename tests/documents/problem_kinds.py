"""Every kind of problem that the code can answer with, as the code has it."""

import ast
import inspect
from collections.abc import Iterator

import eggs_core.errors
from app.problem_handlers import _HTTP
from app.problems import STATUS_OF_ERROR
from eggs_core.errors import EggsError
from tests.documents.blocks import ROOT

# What makes a problem document, with its code, title and status first.
_MAKERS = {"Problem", "document"}


def kinds() -> dict[str, int]:
    """The HTTP status of each kind, by its code."""
    found = {code: status for status, (code, *_) in _HTTP.items()}
    for _, error in inspect.getmembers(eggs_core.errors, inspect.isclass):
        if issubclass(error, EggsError) and error is not EggsError:
            found[error.code] = STATUS_OF_ERROR.get(error.code, 422)
    return found | dict(_made())


def _made() -> Iterator[tuple[str, int]]:
    """The kinds that are made with their code and status written down."""
    for file in sorted([*(ROOT / "app").rglob("*.py"), *(ROOT / "worker").rglob("*.py")]):
        for call in ast.walk(ast.parse(file.read_text())):
            if isinstance(call, ast.Call) and _name(call.func) in _MAKERS and len(call.args) >= 3:
                code, _, status, *_ = call.args
                if isinstance(code, ast.Constant) and isinstance(status, ast.Constant):
                    yield str(code.value), int(str(status.value))


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
