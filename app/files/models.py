"""Tables of uploaded files, and of the jobs that use them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import BigInteger, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class FileType(StrEnum):
    """What a file holds. Its name says so: `.txt`, `.jsonl`, `.parquet`, and `.tar`, `.tar.gz` or `.tgz`."""

    TEXT = "text"
    JSONL = "jsonl"
    PARQUET = "parquet"
    MODEL = "model"


class UploadedFile(Base):
    """A file that is complete and was found to be what its name says. Its row makes it visible."""

    __tablename__ = "files"
    __table_args__ = (Index(None, "project", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    # Of the key that has uploaded it; None where an earlier version took it.
    key_id: Mapped[str | None] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(String(255))
    suffix: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    # With the parts of a model, which are kept beside it.
    stored_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    media_type: Mapped[str] = mapped_column(String(128))
    created_at: Mapped[datetime]


class JobFile(Base):
    """A job was submitted that uses a file."""

    __tablename__ = "job_files"

    file_id: Mapped[str] = mapped_column(ForeignKey("files.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
