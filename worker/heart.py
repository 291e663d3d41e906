"""Keeps a lease alive while its job runs, and hears when the job should stop."""

import logging
import os
import threading
import time
from typing import Protocol, Self

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.leases import Heartbeat, Lease, LeaseLost, hand_back, heartbeat
from eggs_core.errors import Cancelled

logger = logging.getLogger(__name__)

# How soon a cancel is heard of at the latest, however long leases are.
MAX_INTERVAL_SECONDS = 5.0
# How soon the heart hears that its worker is to stop.
_LISTEN_SECONDS = 0.5
# What a job has to come to the end of its block when its worker is to stop; then its process ends in the middle.
GRACE_SECONDS = 4.0


class Stopping(Exception):
    """The worker is to stop: the job goes back into the queue, for another one to go on with."""


class Signal(Protocol):
    """Says that the worker is to stop: `threading.Event`, or one that processes share."""

    def is_set(self) -> bool: ...


class Heart:
    """A thread that renews `lease` from `with` to its end.

    It ends the process if its parent dies: an orphan would hold on to a job that nobody can stop. And it does so
    where the worker is told to stop and the job does not hear of it in time; then it hands the job back itself.
    """

    def __init__(
        self, sessions: sessionmaker[Session], lease: Lease, lease_seconds: float, stopping: Signal
    ) -> None:
        self._sessions = sessions
        self._lease = lease
        self._lease_seconds = lease_seconds
        self._stopping = stopping
        self._stopped = threading.Event()
        self._heard = Heartbeat.OK
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._beat, name=f"heart of {lease.job_id}", daemon=True)

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
        last = time.monotonic()
        while not self._stopped.wait(min(interval, _LISTEN_SECONDS)):
            if os.getppid() != self._parent:
                logger.error("The worker of %s is gone; its process ends too", self._lease.job_id)
                os._exit(1)
            if self._stopping.is_set():
                if not self._stopped.wait(GRACE_SECONDS):
                    self._end_in_the_middle()
                return
            if time.monotonic() - last < interval:
                continue
            last = time.monotonic()
            try:
                with self._sessions.begin() as session:
                    self._heard = heartbeat(session, self._lease, self._lease_seconds)
            except SQLAlchemyError:
                # Until the lease expires there is time to try again; after that a beat finds it lost.
                logger.warning(
                    "No heartbeat for %s: the database does not answer", self._lease.job_id, exc_info=True
                )

    def _end_in_the_middle(self) -> None:
        """What the block at hand has done so far is lost, and nothing else."""
        try:
            with self._sessions.begin() as session:
                hand_back(session, self._lease)
        except LeaseLost:
            return  # it has just come to its end
        except SQLAlchemyError:
            logger.warning("%s is not handed back, and waits out its lease", self._lease.job_id, exc_info=True)
        logger.info("The worker stops in the middle of a block of %s, which is handed back", self._lease.job_id)
        os._exit(0)
