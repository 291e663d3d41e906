"""Rings again for jobs that nobody has come for: the message was lost, or the worker was.

And for those that have ended without a word to their experiment trackers, as a worker can tell those."""

import logging
from datetime import timedelta

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app import db
from app.jobs import repository, tracked
from app.jobs.leases import reoffer_candidates
from app.queue import ring, waiting_messages
from app.rounds import Rounds

MOST_PER_ROUND = 100

logger = logging.getLogger(__name__)


def dispatch(
    readers: sessionmaker[Session], celery: Celery, queued_for: timedelta, most_running: int | None = None
) -> list[str]:
    """One round; returns the jobs that it rang for.

    It rings only as often as there are more such jobs than messages, for the oldest that wait: those
    that wait for another one of their key, of which `most_running` may run, start after that one. However long
    every worker is busy, or gone, the queue so never grows beyond the number of jobs.
    """
    waiting = waiting_messages(celery)
    if waiting is None:
        logger.warning("The broker cannot be reached; jobs wait until it can")
        return []
    with readers.begin() as session:
        untold = tracked.overlooked(session, MOST_PER_ROUND)
        startable = repository.count_startable(session, db.now(session), most_running)
        missing = min(len(untold) + startable - waiting, MOST_PER_ROUND)
        jobs = reoffer_candidates(session, missing, queued_for=queued_for) if missing > 0 else []
        jobs = [*untold, *jobs][: max(missing, 0)]
    return [job_id for job_id in jobs if ring(celery, job_id)]


class Dispatcher(Rounds):
    """Runs a round every `interval` seconds: jobs whose message was lost start only while it does."""

    def __init__(
        self,
        readers: sessionmaker[Session],
        celery: Celery,
        interval: float,
        most_running: int | None = None,
    ) -> None:
        queued_for = timedelta(seconds=interval)
        super().__init__("dispatcher", interval, lambda: dispatch(readers, celery, queued_for, most_running))
