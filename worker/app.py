"""The Celery app with the worker's one task."""

from functools import cache

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions
from app.queue import TASK_NAME, make_celery
from app.settings import Settings
from worker.runner import run_job


def make_worker(settings: Settings) -> Celery:
    """The Celery app that consumes doorbell messages and runs jobs."""
    celery = make_celery(settings)

    @cache
    def sessions() -> sessionmaker[Session]:
        # Made at first use, in the pool's process: connections do not survive a fork.
        return make_sessions(make_engine(settings.database_url))

    def prune(job_id: str) -> None:
        run_job(job_id, settings, sessions())

    celery.task(name=TASK_NAME, ignore_result=True)(prune)

    return celery
