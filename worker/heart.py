"""Keeps a lease alive while its job runs, and hears when the job should stop."""

import contextvars
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, Self

import psutil
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app import problems
from app.jobs.leases import Heartbeat, Lease, LeaseLost, confirm_cancelled, fail, hand_back, heartbeat
from app.settings import Settings
from eggs_core.errors import Cancelled
from worker import spans

logger = logging.getLogger(__name__)

# How soon a cancel is heard of at the latest, however long leases are.
MAX_INTERVAL_SECONDS = 1.5
# How soon the heart hears that its worker is to stop, or sees that the job has gone beyond a limit.
_LISTEN_SECONDS = 0.5
# What a job has to come to the end of its block when it is to stop; then its process ends in the middle. The user
# who cancels waits for it and for the interval above.
GRACE_SECONDS = 4.0
CANCEL_GRACE_SECONDS = 3.0


class Stopping(Exception):
    """The worker is to stop: the job goes back into the queue, for another one to go on with."""


class Signal(Protocol):
    """Says that the worker is to stop: `threading.Event`, or one that processes share."""

    def is_set(self) -> bool: ...


class Heart:
    """A thread that renews `lease` from `with` to its end.

    It ends the process if its parent dies: an orphan would hold on to a job that nobody can stop. And it does so
    where the worker is told to stop, or the job is cancelled, and the job does not hear of it in time; and where
    the job goes beyond a limit of the settings. Then it hands the job back itself and calls `handed_back`, or
    writes its end and calls `ended`.
    """

    def __init__(
        self,
        sessions: sessionmaker[Session],
        lease: Lease,
        settings: Settings,
        stopping: Signal,
        ended: Callable[[], None],
        handed_back: Callable[[], None],
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._settings = settings
        self._lease_seconds = settings.lease_seconds
        self._stopping = stopping
        self._ended = ended
        self._handed_back = handed_back
        self._stopped = threading.Event()
        self._heard = Heartbeat.OK
        self._parent = os.getppid()
        beat = partial(contextvars.copy_context().run, self._beat)  # for its lines of the log, and the job's span
        self._thread = threading.Thread(target=beat, name=f"heart of {lease.job_id}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        """Raises `Cancelled` where the user asked for it, `LeaseLost` where another attempt may have begun, and
        `Stopping` where the worker is to stop."""
        if self._heard is Heartbeat.CANCEL_REQUESTED:
            raise Cancelled
        if self._heard is Heartbeat.LOST:
            raise LeaseLost
        if self._stopping.is_set():
            raise Stopping

    def _beat(self) -> None:
        interval = min(self._lease_seconds / 3, MAX_INTERVAL_SECONDS)
        started = last = time.monotonic()
        while not self._stopped.wait(min(interval, _LISTEN_SECONDS)):
            now = time.monotonic()
            if os.getppid() != self._parent:
                logger.error("The worker is gone; the process of its job ends too")
                os._exit(1)
            if self._stopping.is_set():
                self._end_after(GRACE_SECONDS, hand_back, self._handed_back)
                return
            if (problem := self._beyond_limits(now - started)) is not None:
                self._end_after(0, partial(fail, problem=problem), self._ended)
                return
            if now - last < interval:
                continue
            last = now
            try:
                with self._sessions.begin() as session:
                    self._heard = heartbeat(session, self._lease, self._lease_seconds)
            except SQLAlchemyError:
                # Until the lease expires there is time to try again; after that a beat finds it lost.
                logger.warning("No heartbeat: the database does not answer", exc_info=True)
            if self._heard is Heartbeat.CANCEL_REQUESTED:
                self._end_after(CANCEL_GRACE_SECONDS, confirm_cancelled, self._ended)
                return

    def _beyond_limits(self, seconds: float) -> dict[str, Any] | None:
        """The problem of a job that takes more memory, its processes together, or time than it may."""
        most_seconds, most_bytes = self._settings.job_seconds, self._settings.job_memory_bytes
        if most_seconds is not None and seconds > most_seconds:
            return problems.document(
                "job-took-too-long",
                "The job took longer than a job may",
                422,
                f"An attempt may take {most_seconds:g} seconds here. Ask for less effort, fewer samples or "
                "shorter sequences, or ask the operator to raise EGGS_JOB_SECONDS.",
            )
        if most_bytes is not None and _resident_bytes() > most_bytes:
            return problems.document(
                "job-out-of-memory",
                "The job took more memory than a job may",
                422,
                f"A job may take {most_bytes / 2**20:.0f} MiB here. Ask for fewer samples or shorter sequences, "
                "or ask the operator to raise EGGS_JOB_MEMORY_BYTES.",
            )
        return None

    def _end_after(
        self, grace: float, end: Callable[[Session, Lease], None], afterwards: Callable[[], None]
    ) -> None:
        """Ends the process unless the job has come to its end within `grace` seconds.

        What the block at hand has done so far is lost, and nothing else.
        """
        if self._stopped.wait(grace):
            return
        try:
            with self._sessions.begin() as session:
                end(session, self._lease)
            afterwards()
        except LeaseLost:
            return  # it has just come to its end
        except SQLAlchemyError:
            logger.warning("The job waits out its lease", exc_info=True)
        except Exception:
            logger.warning("Not all is done that follows the end of the job", exc_info=True)
        logger.info("The process of the job ends in the middle of a block")
        try:
            spans.cut_short()
        finally:
            os._exit(0)


def _resident_bytes() -> int:
    """Of this process and of those that it has started."""
    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total
