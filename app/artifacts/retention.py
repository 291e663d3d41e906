"""What is kept, and for how long. The database says what refers to a file; only what nothing does is removed."""

import logging
import random
import shutil
from datetime import timedelta

from sqlalchemy.orm import Session, sessionmaker

from app import staging
from app.artifacts import repository
from app.artifacts.store import Store
from app.db import utcnow
from app.settings import Settings
from eggs_core.errors import StoreUnavailable

# So long after a job's end no attempt that has lost its lease can still be writing, and no tracker reading.
_QUIET = timedelta(hours=1)

logger = logging.getLogger(__name__)


def expire(sessions: sessionmaker[Session]) -> None:
    """Has nothing refer any more to files whose time is over."""
    with sessions.begin() as session:
        for job_id in repository.expire(session, utcnow()):
            logger.info("The files of %s have expired", job_id)


def remove_unreferenced(sessions: sessionmaker[Session], store: Store) -> None:
    """Removes what expired jobs, and attempts that came to no good end, have left in the store."""
    with sessions() as session:
        locations = repository.unreferenced(session, ended_before=utcnow() - _QUIET)
    # In another order in every round: one that cannot be removed would else keep the same ones for ever.
    for location in random.sample(locations, len(locations)):
        try:
            store.remove(location)
        except StoreUnavailable as error:
            logger.warning("What nothing refers to is left in the store for now, from %s on: %s", location, error)
            return
        with sessions.begin() as session:
            repository.forget_location(session, location)


def sweep_staging(sessions: sessionmaker[Session], settings: Settings) -> None:
    """Removes what attempts at jobs that have ended left on this machine when they ended in the middle."""
    staged = staging.job_ids(settings)
    with sessions() as session:
        ended = repository.ended(session, set(staged.values()), before=utcnow() - _QUIET)
    for folder, job_id in staged.items():
        if job_id in ended:
            shutil.rmtree(folder, ignore_errors=True)
