"""Every query on links."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.keys.models import ApiKey
from app.shares.models import ShareLink


def add(session: Session, link: ShareLink) -> None:
    """Stores a new link."""
    session.add(link)
    session.flush()


def with_key(session: Session, link_id: str) -> tuple[ShareLink, ApiKey] | None:
    """The link with this id, expired or not, and the key it was made with."""
    query = select(ShareLink, ApiKey).join(ApiKey, ApiKey.id == ShareLink.key_id).where(ShareLink.id == link_id)
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def of_job(session: Session, job_id: str) -> Sequence[ShareLink]:
    """The links of a job, the oldest first."""
    return session.scalars(select(ShareLink).where(ShareLink.job_id == job_id).order_by(ShareLink.id)).all()


def remove(session: Session, job_id: str, link_id: str) -> bool:
    """Removes a link of a job; False if it has no such link."""
    removed = session.scalars(
        delete(ShareLink).where(ShareLink.id == link_id, ShareLink.job_id == job_id).returning(ShareLink.id)
    )
    return removed.one_or_none() is not None


def remove_expired(session: Session, now: datetime) -> None:
    """Removes what opens nothing any more."""
    session.execute(delete(ShareLink).where(ShareLink.expires_at <= now))
