"""Says in the database that the worker is there, for people to see; what it may do to a job, leases say."""

import logging
import os
import socket
import threading
from importlib.metadata import version

from sqlalchemy.exc import SQLAlchemyError

from app.db import make_engine, make_sessions, utcnow
from app.ids import new_id
from app.settings import Settings
from app.workers import service
from app.workers.models import Worker
from worker import machine

_MOST_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Presence:
    """A worker from its start to its end.

    It is made in the process that the operator started, and beats in the one that this has forked for the next
    job, of which there is always one: a process with a connection to SQLite must not fork.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._id = new_id("worker")
        self._pid = os.getpid()
        self._started_at = utcnow()
        self._job_id: str | None = None
        self._changed = threading.Event()

    def beat(self) -> None:
        """Begins to beat, in a thread that ends with its process."""
        threading.Thread(target=self._beat, name="presence", daemon=True).start()

    def at(self, job_id: str) -> None:
        """Notes that the worker has taken a job; the process ends with it."""
        self._job_id = job_id
        self._changed.set()

    def end(self) -> None:
        """Notes that the worker has stopped. No process is forked any more."""
        engine = make_engine(self._settings.database_url)
        try:
            with make_sessions(engine).begin() as session:
                service.leave(session, self._id)
        except SQLAlchemyError:
            logger.warning("The worker is shown as lost: the database does not answer")
        finally:
            engine.dispose()

    def _beat(self) -> None:
        sessions = make_sessions(make_engine(self._settings.database_url))
        here = machine.look()
        while os.getppid() == self._pid:  # an orphan is no worker
            self._changed.clear()
            worker = Worker(
                id=self._id,
                hostname=socket.gethostname()[:255],
                pid=self._pid,
                version=version("eggs"),
                cpus=here.cpus,
                memory_bytes=here.memory_bytes,
                gpus="\n".join(here.gpus)[:1024],
                gpu_memory_bytes=here.gpu_memory_bytes,
                started_at=self._started_at,
                job_id=self._job_id,
            )
            try:
                with sessions.begin() as session:
                    service.beat(session, worker)
            except SQLAlchemyError:
                logger.warning("The worker may be shown as lost: the database does not answer")
            self._changed.wait(min(self._settings.lease_seconds / 3, _MOST_SECONDS))
