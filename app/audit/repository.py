"""Every query on audit entries."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.audit.models import AuditEntry


def add(session: Session, entry: AuditEntry) -> None:
    """Stores a new entry."""
    session.add(entry)
    session.flush()


def page(session: Session, project: str, *, limit: int, after: str | None) -> Sequence[AuditEntry]:
    """Up to `limit` entries of a project, newest first, beginning after the entry `after`."""
    query = select(AuditEntry).where(AuditEntry.project == project).order_by(AuditEntry.id.desc()).limit(limit)
    if after is not None:
        query = query.where(AuditEntry.id < after)
    return session.scalars(query).all()
