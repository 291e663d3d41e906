"""Keeps a lease alive while its job runs, and hears when the job should stop."""

import logging
import os
import threading
from typing import Self

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.leases import Heartbeat, Lease, LeaseLost, heartbeat
from eggs_core.errors import Cancelled

logger = logging.getLogger(__name__)

# How soon a cancel is heard of at the latest, however long leases are.
MAX_INTERVAL_SECONDS = 5.0


class Heart:
    """A thread that renews `lease` from `with` to its end.

    It ends the process if its parent dies: an orphan would hold on to a job that nobody can stop.
    """

    def __init__(self, sessions: sessionmaker[Session], lease: Lease, lease_seconds: float) -> None:
        self._sessions = sessions
        self._lease = lease
        self._lease_seconds = lease_seconds
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
        """Raises `Cancelled` where the user asked for it, `LeaseLost` where another attempt may have begun."""
        if self._heard is Heartbeat.CANCEL_REQUESTED:
            raise Cancelled
        if self._heard is Heartbeat.LOST:
            raise LeaseLost

    def _beat(self) -> None:
        while not self._stopped.wait(min(self._lease_seconds / 3, MAX_INTERVAL_SECONDS)):
            if os.getppid() != self._parent:
                logger.error("The worker of %s is gone; its process ends too", self._lease.job_id)
                os._exit(1)
            try:
                with self._sessions.begin() as session:
                    self._heard = heartbeat(session, self._lease, self._lease_seconds)
            except SQLAlchemyError:
                # Until the lease expires there is time to try again; after that a beat finds it lost.
                logger.warning(
                    "No heartbeat for %s: the database does not answer", self._lease.job_id, exc_info=True
                )
