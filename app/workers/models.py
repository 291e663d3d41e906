"""Table of workers."""

from datetime import datetime

from sqlalchemy import BigInteger, ForeignKey, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Worker(Base):
    """A worker, as it was heard of last. Its row goes when it is stopped, or some time after it is lost."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    hostname: Mapped[str] = mapped_column(String(255))
    pid: Mapped[int]
    version: Mapped[str] = mapped_column(String(64))
    cpus: Mapped[int]
    memory_bytes: Mapped[int] = mapped_column(BigInteger)
    # Names, separated by line breaks; none where jobs run on the CPU.
    gpus: Mapped[str] = mapped_column(String(1024))
    gpu_memory_bytes: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
