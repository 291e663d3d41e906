"""`python -m worker.health`: whether a worker could work here. Prints what stands in the way, and ends with 1.

It does not look at the worker's process: one that hangs loses its lease, and restarting it would cost its job.
"""

import sys

from app.db import make_engine, make_sessions
from app.queue import make_celery
from app.readiness import look
from app.settings import get_settings


def main() -> None:
    """Asks the database and the broker."""
    settings = get_settings()
    readers = make_sessions(make_engine(settings.database_url), read_only=True)
    readiness = look(readers, make_celery(settings))
    print(readiness.model_dump_json())
    sys.exit(readiness.status != "ready" or readiness.broker != "ok")


if __name__ == "__main__":
    main()
