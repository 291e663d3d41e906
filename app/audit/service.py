"""Rules on the audit log. An entry is written in one transaction with what it tells of."""

from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy.orm import Session

from app.audit import repository
from app.audit.models import AuditEntry
from app.db import utcnow
from app.ids import new_id


class Action(StrEnum):
    """What can be done."""

    JOB_SUBMITTED = "job.submitted"
    JOB_CANCELLED = "job.cancelled"
    SWEEP_SUBMITTED = "sweep.submitted"
    FILE_UPLOADED = "file.uploaded"
    FILE_DELETED = "file.deleted"
    SESSION_CREATED = "session.created"
    SESSION_ENDED = "session.ended"
    SHARE_CREATED = "share.created"
    SHARE_DELETED = "share.deleted"
    KEY_CREATED = "key.created"
    KEY_REVOKED = "key.revoked"
    WEBHOOK_CREATED = "webhook.created"
    WEBHOOK_UPDATED = "webhook.updated"
    WEBHOOK_DELETED = "webhook.deleted"
    WEBHOOK_SECRET_ROTATED = "webhook.secret_rotated"  # noqa: S105
    WEBHOOK_PINGED = "webhook.pinged"
    WEBHOOK_REDELIVERED = "webhook.redelivered"


def note(session: Session, project: str, key_id: str | None, action: Action, subject: str) -> None:
    """Writes that `key_id`, or someone on the command line, did something to `subject`."""
    entry = AuditEntry(
        id=new_id("audit"), project=project, key_id=key_id, action=action, subject=subject, created_at=utcnow()
    )
    repository.add(session, entry)


def page(session: Session, project: str, *, limit: int, after: str | None) -> tuple[Sequence[AuditEntry], bool]:
    """Up to `limit` entries, newest first, and whether there are more."""
    entries = repository.page(session, project, limit=limit + 1, after=after)
    return entries[:limit], len(entries) > limit
