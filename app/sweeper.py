"""Removes what has expired, and sees to what was left behind."""

import logging
from collections.abc import Callable
from functools import partial

from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import retention
from app.artifacts.store import Store
from app.files import service as files
from app.rounds import Rounds
from app.settings import Settings
from app.sweeps import completion
from app.workers import service as workers

logger = logging.getLogger(__name__)


def sweep(sessions: sessionmaker[Session], settings: Settings, store: Store) -> None:
    """One round. Several processes may be at it at once; a part that fails keeps none of the others from it."""
    parts: tuple[Callable[[], None], ...] = (
        partial(completion.complete_overlooked, sessions),
        partial(files.sweep, sessions, settings),
        partial(retention.sweep_staging, sessions, settings),
        partial(retention.expire, sessions),
        partial(retention.remove_unreferenced, sessions, store),
        partial(workers.sweep, sessions),
    )
    for part in parts:
        try:
            part()
        except Exception:  # whatever it is: the next round tries again
            logger.exception("A part of a round of the sweeper failed")


class Sweeper(Rounds):
    """Sweeps every so many seconds, as the settings say."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings, store: Store) -> None:
        super().__init__("sweeper", settings.sweep_interval_seconds, lambda: sweep(sessions, settings, store))
