"""The Celery app with the worker's one task."""

import logging
import os
import signal
import threading
from contextlib import suppress
from functools import cache
from multiprocessing import get_context
from typing import Any

import psutil
from celery import Celery
from celery.signals import worker_process_init, worker_shutting_down
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions
from app.queue import TASK_NAME, make_celery
from app.settings import Settings
from worker.presence import Presence
from worker.runner import run_next

# So long after it was told to stop the worker ends, whatever its pool waits for: one that is closed at the moment
# at which it replaces a process waits for that one for ever. The job is handed back before; see `worker.heart`.
_MOST_SECONDS = 8.0

logger = logging.getLogger(__name__)


class Flag:
    """Set once, for all processes that are forked from this one.

    An event has a lock: a process that is killed while it asks would leave all others waiting for it.
    """

    def __init__(self) -> None:
        self._value = get_context("fork").RawValue("b", 0)

    def is_set(self) -> bool:
        """Whether any of the processes has set it."""
        return bool(self._value.value)

    def set(self) -> None:
        """Sets it."""
        self._value.value = 1


def make_worker(settings: Settings, presence: Presence) -> Celery:
    """The Celery app that consumes doorbell messages and runs jobs, and tells `presence` of them.

    Told to stop, it hands the job at hand back.
    """
    celery = make_celery(settings)
    stopping = Flag()  # shared with the pool's processes, which are forked from this one

    def stop(**_: Any) -> None:
        last = threading.Timer(_MOST_SECONDS, _end, [presence])
        last.daemon = True
        last.start()
        stopping.set()

    worker_shutting_down.connect(stop, weak=False)
    worker_process_init.connect(lambda **_: presence.beat(), weak=False)

    @cache
    def sessions() -> sessionmaker[Session]:
        # Made at first use, in the pool's process: connections do not survive a fork.
        return make_sessions(make_engine(settings.database_url))

    def prune(job_id: str) -> None:
        if stopping.is_set():
            return  # a message that came meanwhile; the dispatcher rings again
        # Whoever stops a service may tell all of its processes; this one hears it from the worker. No SIG_IGN,
        # which programs that it starts would inherit.
        signal.signal(signal.SIGTERM, lambda *_: None)
        # The message only says that there is work; whose turn it is the database knows.
        run_next(settings, sessions(), stopping, presence.at)

    celery.task(name=TASK_NAME, ignore_result=True)(prune)

    return celery


def _end(presence: Presence) -> None:
    logger.warning("The pool of processes has not come to its end; the worker ends without it")
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    presence.end()
    os._exit(0)
