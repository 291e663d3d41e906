"""What is sent: `{type, timestamp, data}`, as Standard Webhooks has it."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.db import utcnow
from app.examples import JOB_ID, example
from app.jobs.models import Job, JobEvent, JobEventType
from app.jobs.schemas import JOB, JobEventResource, JobResource
from app.sweeps.schemas import SWEEP, SweepResource

_PING: dict[str, Any] = {"webhook_id": "whk_01jv3k0s9e6x7q2m4n8p5r1t0w"}
_AT = "2026-05-04T09:21:58.120000Z"
_DATA: dict[str, Any] = {
    "object": "job.event",
    "id": 34,
    "job_id": JOB_ID,
    "type": "job.succeeded",
    "state": "succeeded",
    "progress": 1.0,
    "stage": None,
    "message": "Done: the report and the artifacts are ready.",
    "data": {},
    "created_at": _AT,
    "job": JOB
    | {"state": "succeeded", "progress": 1.0, "stage": None, "finished_at": _AT, "estimated_seconds_left": None},
}


class JobEventData(JobEventResource):
    """An event of a job, as `/v1/jobs/{job_id}/events` has it, and the job as it stood then."""

    model_config = example(_DATA)

    job: JobResource


class JobEventPayload(BaseModel):
    """Tells of an event of a job."""

    model_config = example({"type": "job.succeeded", "timestamp": _AT, "data": _DATA})

    type: JobEventType
    timestamp: datetime = Field(description="When it happened; the same in every attempt to tell of it.")
    data: JobEventData

    @classmethod
    def of(cls, job: Job, event: JobEvent) -> Self:
        """As it is sent."""
        data = JobEventData(**dict(JobEventResource.of(event)), job=JobResource.of(job))
        return cls(type=JobEventType(event.type), timestamp=event.created_at, data=data)


class SweepPayload(BaseModel):
    """Tells that the last job of a sweep has ended, with the sweep as `/v1/sweeps/{sweep_id}` has it."""

    model_config = example({"type": "sweep.completed", "timestamp": SWEEP["completed_at"], "data": SWEEP})

    type: Literal["sweep.completed"] = "sweep.completed"
    timestamp: datetime = Field(description="When it ended; the same in every attempt to tell of it.")
    data: SweepResource

    @classmethod
    def of(cls, sweep: SweepResource) -> Self:
        """As it is sent."""
        assert sweep.completed_at is not None
        return cls(timestamp=sweep.completed_at, data=sweep)


class PingData(BaseModel):
    """Which webhook was asked to be tried."""

    model_config = example(_PING)

    webhook_id: str


class PingPayload(BaseModel):
    """Tells of nothing: somebody wants to see whether it arrives."""

    model_config = example({"type": "webhook.ping", "timestamp": _AT, "data": _PING})

    type: Literal["webhook.ping"] = "webhook.ping"
    timestamp: datetime
    data: PingData

    @classmethod
    def of(cls, endpoint_id: str) -> Self:
        """As it is sent."""
        return cls(timestamp=utcnow(), data=PingData(webhook_id=endpoint_id))
