"""Tables of jobs and their events."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Computed, Enum, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class JobState(StrEnum):
    """Where a job stands. `succeeded`, `failed` and `cancelled` are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


class JobSort(StrEnum):
    """What a list of jobs is sorted by; with `-`, the last comes first."""

    CREATED = "created_at"
    CREATED_LAST = "-created_at"
    NAME = "name"
    NAME_LAST = "-name"
    MODEL = "model"
    MODEL_LAST = "-model"
    METHOD = "method"
    METHOD_LAST = "-method"
    STATE = "state"
    STATE_LAST = "-state"


class JobEventType(StrEnum):
    """What can happen to a job."""

    QUEUED = "job.queued"
    RUNNING = "job.running"
    PROGRESS = "job.progress"
    CANCEL_REQUESTED = "job.cancel_requested"
    SUCCEEDED = "job.succeeded"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"


_STATE = Enum(
    JobState,
    name="state",
    native_enum=False,
    create_constraint=True,
    length=16,
    values_callable=lambda states: [state.value for state in states],
)


class Job(Base):
    """A pruning job. `lease_token` names the attempt that may write to it; see `app.jobs.leases`."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "project", "id"),
        Index(None, "state", "lease_expires_at"),
        Index(None, "key_id", "state"),
        Index(None, "project", "state", "id"),
        Index(None, "project", "model", "id"),
        Index(None, "project", "method", "id"),
        Index(None, "artifacts_expire_at"),
        Index(None, "finished_at", "state", "started_at", "created_at"),
        Index(None, "sweep_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    name: Mapped[str | None] = mapped_column(String(128))
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    sweep_id: Mapped[str | None] = mapped_column(String(40))
    spec: Mapped[dict[str, Any]]
    # What lists are filtered and sorted by, kept by the database itself.
    model: Mapped[str | None] = mapped_column(String(1024), Computed("spec ->> 'model'"))
    method: Mapped[str | None] = mapped_column(String(32), Computed("spec ->> 'method'"))
    state: Mapped[JobState] = mapped_column(_STATE, default=JobState.QUEUED)
    progress: Mapped[float] = mapped_column(default=0.0)
    stage: Mapped[str | None] = mapped_column(String(64))
    error: Mapped[dict[str, Any] | None]
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    attempt: Mapped[int] = mapped_column(default=0)
    workers_lost: Mapped[int] = mapped_column(default=0, server_default="0")
    # Transient faults so far, and when the job may be tried again after the last one.
    retries: Mapped[int] = mapped_column(default=0, server_default="0")
    retry_at: Mapped[datetime | None]
    lease_token: Mapped[str | None] = mapped_column(String(40))
    lease_expires_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    last_sequence: Mapped[int] = mapped_column(default=0)
    artifacts_dir: Mapped[str | None] = mapped_column(String(128))
    artifacts_expire_at: Mapped[datetime | None]
    verdict: Mapped[str | None] = mapped_column(String(16))
    # As `app.jobs.schemas.PushResource` has it.
    push_to_hub: Mapped[dict[str, Any] | None]
    # Encrypted, and forgotten when the job ends.
    hub_token: Mapped[str | None] = mapped_column(Text)
    # Where the request that made the job is in its trace.
    traceparent: Mapped[str | None] = mapped_column(String(55))
    # Tens of kilobytes, wanted by one endpoint only.
    report: Mapped[dict[str, Any] | None] = mapped_column(deferred=True)


class JobEvent(Base):
    """Something that happened to a job, and how the job stood after it."""

    __tablename__ = "job_events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    state: Mapped[JobState] = mapped_column(_STATE)
    progress: Mapped[float]
    stage: Mapped[str | None] = mapped_column(String(64))
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class JobTracking(Base):
    """A job of whose end experiment trackers are still to hear; see `app.jobs.tracked`."""

    __tablename__ = "tracked_jobs"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
