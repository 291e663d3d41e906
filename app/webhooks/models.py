"""Tables of webhooks and of what is sent to them."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import Enum, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base
from app.jobs.models import JobEventType


class WebhookEventType(StrEnum):
    """What a webhook can be told of: all that happens to jobs, and the end of sweeps."""

    JOB_QUEUED = JobEventType.QUEUED.value
    JOB_RUNNING = JobEventType.RUNNING.value
    JOB_PROGRESS = JobEventType.PROGRESS.value
    JOB_CANCEL_REQUESTED = JobEventType.CANCEL_REQUESTED.value
    JOB_SUCCEEDED = JobEventType.SUCCEEDED.value
    JOB_FAILED = JobEventType.FAILED.value
    JOB_CANCELLED = JobEventType.CANCELLED.value
    SWEEP_COMPLETED = "sweep.completed"


class DeliveryState(StrEnum):
    """Where a message stands. One that is pending is tried until it is delivered or has failed."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


class WebhookEndpoint(Base):
    """An address that wants to be told of a project's jobs and sweeps. One courier at a time has a turn at it."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index(None, "project", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    # Types of events, separated by spaces.
    events: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(String(256))
    enabled: Mapped[bool]
    # Why the service itself has disabled it.
    disabled_reason: Mapped[str | None] = mapped_column(String(255))
    # Encrypted; see `app.secrets`. The one before signs too for a while after it was replaced.
    secret: Mapped[str] = mapped_column(Text)
    previous_secret: Mapped[str | None] = mapped_column(Text)
    previous_secret_until: Mapped[datetime | None]
    created_at: Mapped[datetime]
    lease_token: Mapped[str | None] = mapped_column(String(40))
    lease_expires_at: Mapped[datetime | None]
    # When a courier last had a turn at it.
    served_at: Mapped[datetime | None]


class WebhookDelivery(Base):
    """A message to an endpoint: the very text that is signed, and what became of it."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(None, "endpoint_id", "id"),
        Index(None, "endpoint_id", "state", "id"),
        Index(None, "state", "next_attempt_at"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    endpoint_id: Mapped[str] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    type: Mapped[str] = mapped_column(String(32))
    # What it tells of, a job's event or a sweep; a ping tells of neither.
    job_id: Mapped[str | None] = mapped_column(String(40))
    sequence: Mapped[int | None]
    sweep_id: Mapped[str | None] = mapped_column(String(40))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[DeliveryState] = mapped_column(
        Enum(
            DeliveryState,
            name="state",
            native_enum=False,
            create_constraint=True,
            length=16,
            values_callable=lambda states: [state.value for state in states],
        ),
        default=DeliveryState.PENDING,
    )
    # All of them; and those since the message was queued, or queued again by hand, that were followed by a pause.
    attempts: Mapped[int] = mapped_column(default=0)
    retries: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime | None]
    last_attempt_at: Mapped[datetime | None]
    last_status: Mapped[int | None]
    last_error: Mapped[str | None] = mapped_column(String(255))
