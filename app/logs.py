"""What the API and its workers log, uvicorn and Celery included: one line each, of text or of JSON, to stderr.

No text of a user can forge a line. JSON escapes what is not plain ASCII; in text every character that does not
print is escaped, and the lines of a traceback are indented.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

from app.settings import LogFormat

# What they tell of every request of theirs, the service tells where it matters; addresses may carry a signature.
_QUIET = ("alembic", "httpx", "httpx2", "mlflow")
# Uvicorn and Celery hang these on their records, whose messages say the same.
_REPEATED = ("color_message", "data")

_context: ContextVar[Mapping[str, str | int]] = ContextVar("log_context", default={})  # noqa: B039 - never changed


def setup(form: LogFormat) -> None:
    """Makes this process log in this form."""
    handler = logging.StreamHandler()
    handler.setFormatter(_json_formatter() if form == "json" else _TextFormatter())
    handler.addFilter(_add_context)
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    logging.captureWarnings(True)
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def context() -> Mapping[str, str | int]:
    """What is added to each line that is logged here."""
    return _context.get()


def bind(**fields: str | int) -> None:
    """Adds fields to each further line of this task, and of the threads that work for it."""
    _context.set({**_context.get(), **fields})


@contextmanager
def bound(**fields: str | int) -> Iterator[None]:
    """Adds fields to each line until the end of the block."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def _add_context(record: logging.LogRecord) -> bool:
    record.__dict__.update(_context.get())
    return True


def _json_formatter() -> logging.Formatter:
    return JsonFormatter(
        ["levelname", "name", "message"],
        timestamp="timestamp",
        rename_fields={"levelname": "level", "name": "logger", "exc_info": "exception", "stack_info": "stack"},
        reserved_attrs=[*RESERVED_ATTRS, *_REPEATED],
    )


class _TextFormatter(logging.Formatter):
    """`2026-05-04T09:21:07.512+00:00 INFO app.jobs.endpoints request_id=req_…: Submitted`"""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        bound = "".join(f" {name}={value}" for name, value in _context.get().items())
        lines = [f"{moment} {record.levelname} {record.name}{bound}: {_escaped(record.getMessage())}"]
        more = [self.formatException(record.exc_info)] if record.exc_info else []
        more += [record.stack_info] if record.stack_info else []
        return "\n".join(lines + [f"    {_escaped(line)}" for text in more for line in text.splitlines()])


def _escaped(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
