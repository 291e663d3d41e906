"""Removes what has expired, and sees to what was left behind."""

from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import retention
from app.artifacts.store import Store
from app.files import service as files
from app.rounds import Rounds
from app.settings import Settings
from app.sweeps import completion
from app.workers import service as workers


def sweep(sessions: sessionmaker[Session], settings: Settings, store: Store) -> None:
    """One round. Several processes may be at it at once."""
    completion.complete_overlooked(sessions)
    files.sweep(sessions, settings)
    retention.sweep_staging(sessions, settings)
    retention.expire(sessions)
    retention.remove_unreferenced(sessions, store)
    workers.sweep(sessions)


class Sweeper(Rounds):
    """Sweeps every so many seconds, as the settings say."""

    def __init__(self, sessions: sessionmaker[Session], settings: Settings, store: Store) -> None:
        super().__init__("sweeper", settings.sweep_interval_seconds, lambda: sweep(sessions, settings, store))
