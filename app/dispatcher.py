"""Rings again for jobs that nobody has come for: the message was lost, or the worker was."""

import logging
from datetime import timedelta
from threading import Event, Thread

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.db import utcnow
from app.jobs import repository
from app.jobs.leases import reoffer_candidates
from app.queue import ring, waiting_messages

MOST_PER_ROUND = 100

logger = logging.getLogger(__name__)


def dispatch(readers: sessionmaker[Session], celery: Celery, queued_for: timedelta) -> list[str]:
    """One round; returns the jobs that it rang for.

    It rings only as often as there are more claimable jobs than messages, for the oldest of them. However long
    every worker is busy, or gone, the queue so never grows beyond the number of jobs.
    """
    waiting = waiting_messages(celery)
    if waiting is None:
        logger.warning("The broker cannot be reached; jobs wait until it can")
        return []
    with readers.begin() as session:
        missing = min(repository.count_claimable(session, utcnow()) - waiting, MOST_PER_ROUND)
        jobs = reoffer_candidates(session, missing, queued_for=queued_for) if missing > 0 else []
    return [job_id for job_id in jobs if ring(celery, job_id)]


class Dispatcher:
    """Runs a round every `interval` seconds, in a thread, from `start` to `stop`."""

    def __init__(self, readers: sessionmaker[Session], celery: Celery, interval: float) -> None:
        self._readers = readers
        self._celery = celery
        self._interval = interval
        self._stopped = Event()
        self._thread = Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Starts the rounds."""
        self._thread.start()

    def stop(self) -> None:
        """Ends them, and waits for the one at hand."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                dispatch(self._readers, self._celery, timedelta(seconds=self._interval))
            except Exception:  # whatever it is: jobs whose message was lost start only while this thread lives
                logger.exception("The dispatcher could not finish a round; it tries again")
