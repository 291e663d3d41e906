"""Every query on API keys."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from app.keys.models import ApiKey


def add(session: Session, key: ApiKey) -> None:
    """Stores a new key."""
    session.add(key)
    session.flush()


def get(session: Session, key_id: str) -> ApiKey | None:
    """The key with this id, revoked or not."""
    return session.get(ApiKey, key_id)


def all_keys(session: Session, project: str | None = None) -> Sequence[ApiKey]:
    """Every key, or every one of a project, the oldest first."""
    query = select(ApiKey).order_by(ApiKey.id)
    return session.scalars(query if project is None else query.where(ApiKey.project == project)).all()


def count(session: Session) -> int:
    """How many keys were ever made."""
    return session.scalars(select(func.count()).select_from(ApiKey)).one()


def lock(session: Session, key_id: str) -> None:
    """Has other transactions that ask for the key wait: no two of them take the last place below its limit."""
    _lock(session, ApiKey.id == key_id)


def lock_project(session: Session, project: str) -> None:
    """The same with all keys of a project, for what limits them together."""
    _lock(session, ApiKey.project == project)


def serve(session: Session, key_id: str, now: datetime) -> None:
    """Stores when a job of a key was taken last."""
    session.execute(
        update(ApiKey).where(ApiKey.id == key_id).values(served_at=now),
        execution_options={"synchronize_session": False},
    )


def touch(session: Session, key_id: str, now: datetime) -> None:
    """Stores when a key was used last."""
    session.execute(
        update(ApiKey).where(ApiKey.id == key_id).values(last_used_at=now),
        execution_options={"synchronize_session": False},
    )


def _lock(session: Session, whose: ColumnElement[bool]) -> None:
    # `key_share`: what only refers to a key, as each new row of its project does, does not wait.
    session.execute(select(ApiKey.id).where(whose).order_by(ApiKey.id).with_for_update(key_share=True))
