"""Every query on sessions."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.keys.models import ApiKey
from app.sessions.models import BrowserSession


def add(session: Session, browser: BrowserSession) -> None:
    """Stores a new session."""
    session.add(browser)
    session.flush()


def with_key(session: Session, token_hash: str, now: datetime) -> tuple[BrowserSession, ApiKey] | None:
    """The session with this hash that has not expired, and its key."""
    query = (
        select(BrowserSession, ApiKey)
        .join(ApiKey, ApiKey.id == BrowserSession.key_id)
        .where(BrowserSession.token_hash == token_hash, BrowserSession.expires_at > now)
    )
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def get(session: Session, session_id: str) -> BrowserSession | None:
    """The session with this id."""
    return session.get(BrowserSession, session_id)


def remove(session: Session, session_id: str) -> None:
    """Removes a session."""
    session.execute(delete(BrowserSession).where(BrowserSession.id == session_id))


def remove_expired(session: Session, now: datetime) -> None:
    """Removes what opens nothing any more."""
    session.execute(delete(BrowserSession).where(BrowserSession.expires_at <= now))
