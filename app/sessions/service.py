"""Rules on sessions. A session ends after some hours, with its key, or when its user signs out."""

import secrets
from datetime import timedelta

from sqlalchemy.orm import Session

from app.audit import service as audit
from app.db import utcnow
from app.ids import new_id
from app.keys import service as keys
from app.keys.models import ApiKey
from app.keys.service import Principal
from app.problems import Problem
from app.sessions import repository
from app.sessions.models import BrowserSession

COOKIE = "eggs_session"
CSRF_HEADER = "X-Eggs-Session"
"""Needed where a cookie is to change something: pages of other sites cannot send it."""
LASTS = timedelta(hours=12)


def create(session: Session, principal: Principal) -> tuple[BrowserSession, str]:
    """A new session of the key that asks, and what its cookie holds, which cannot be had again.

    Raises a 403 `Problem` where a session asks: it would never end.
    """
    if principal.session_id is not None:
        raise Problem(
            "session-needs-key",
            "A session is made with an API key",
            403,
            "A session cannot make another one. Send the key as `Authorization: Bearer eggs_…`.",
        )
    now = utcnow()
    repository.remove_expired(session, now)
    token = secrets.token_urlsafe(32)
    browser = BrowserSession(
        id=new_id("ses"),
        key_id=principal.key_id,
        token_hash=keys.hash_of(token),
        created_at=now,
        expires_at=now + LASTS,
    )
    repository.add(session, browser)
    audit.note(session, principal.project, principal.key_id, audit.Action.SESSION_CREATED, browser.id)
    return browser, token


def authenticate(session: Session, token: str) -> tuple[str, ApiKey] | None:
    """The id of the session that this cookie is of, and its key; None where either opens nothing. Only reads."""
    found = repository.with_key(session, keys.hash_of(token), utcnow())
    if found is None or not keys.is_open(found[1]):
        return None
    return found[0].id, found[1]


def current(session: Session, principal: Principal) -> BrowserSession:
    """The session that asks. Raises a 404 `Problem` where a key does."""
    browser = None if principal.session_id is None else repository.get(session, principal.session_id)
    if browser is None:
        raise Problem(
            "session-not-found",
            "This request has no session",
            404,
            "It was made with an API key. POST /v1/session exchanges one for a session.",
        )
    return browser


def end(session: Session, principal: Principal) -> str:
    """Ends the session that asks, and says its id. Raises as `current` does."""
    session_id = current(session, principal).id
    repository.remove(session, session_id)
    audit.note(session, principal.project, principal.key_id, audit.Action.SESSION_ENDED, session_id)
    return session_id
