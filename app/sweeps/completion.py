"""The end of a sweep: its last job has ended. That is stored, and told of, once."""

from sqlalchemy.orm import Session, sessionmaker

from app.sweeps import repository
from app.webhooks import outbox


def complete(session: Session, sweep_id: str) -> None:
    """Ends a sweep of which a job has just ended, if none is left; in the transaction that ends the job."""
    sweep = repository.complete(session, sweep_id)
    if sweep is not None:
        outbox.write_sweep(session, sweep)


def complete_overlooked(sessions: sessionmaker[Session]) -> None:
    """Ends sweeps whose last job was ended by the version before while this one took over: it knew of no end."""
    with sessions() as session:
        overlooked = repository.overlooked(session)
    for sweep_id in overlooked:
        with sessions.begin() as session:
            complete(session, sweep_id)
