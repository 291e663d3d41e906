"""`python -m worker` starts a worker with the settings of its environment."""

import os

from celery.signals import setup_logging

from app import logs, tracing
from app.settings import get_settings
from worker.app import make_worker
from worker.presence import Presence

_NICENESS = 10
ARGUMENTS = [
    "--quiet",  # no banner
    "worker",
    "--pool=prefork",
    "--concurrency=1",
    "--max-tasks-per-child=1",
    "--without-gossip",
    "--without-mingle",
    "--without-heartbeat",
    "--loglevel=INFO",
]


def main() -> None:
    """Runs until it is told to stop. Jobs run one at a time, each in a fresh process of its own.

    A fresh process gives a job all of its memory back and measures its peak; a job that kills its process
    leaves the worker standing. Jobs give way to whatever else the machine runs, such as an API beside them.
    """
    os.nice(_NICENESS)
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars are for people; a log has the progress of jobs
    settings = get_settings()
    logs.setup(settings.log_format)
    tracing.setup("eggs-worker")
    setup_logging.connect(lambda **_: None, weak=False)  # keeps Celery from setting up its own
    presence = Presence(settings)
    try:
        make_worker(settings, presence).worker_main(ARGUMENTS)
    finally:
        presence.end()


if __name__ == "__main__":
    main()
