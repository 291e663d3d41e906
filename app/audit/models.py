"""Table of audit entries."""

from datetime import datetime

from sqlalchemy import Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class AuditEntry(Base):
    """Something that was done. Never changed, and kept when what it tells of is gone."""

    __tablename__ = "audit_entries"
    __table_args__ = (Index(None, "project", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    # None where it was done on the command line, by someone who can read the database.
    key_id: Mapped[str | None] = mapped_column(String(40))
    action: Mapped[str] = mapped_column(String(32))
    subject: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]
