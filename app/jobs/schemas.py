"""What requests and answers on jobs look like."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, StringConstraints, ValidationError, model_validator

from app.db import utcnow
from app.examples import HUB_PUSH, JOB_ID, SPEC, example, example_list
from app.ids import id_pattern
from app.jobs.models import Job, JobEvent, JobState
from app.pages import Page
from eggs_core.report import Verdict
from eggs_core.spec import HubPush, OutputSpec, PruneSpec

JOB_ID_PATTERN = id_pattern("job")
SWEEP_ID_PATTERN = id_pattern("sweep")
MAX_SEQUENCE = 2**31 - 1

_EVENT: dict[str, Any] = {
    "object": "job.event",
    "id": 12,
    "job_id": JOB_ID,
    "type": "job.progress",
    "state": "running",
    "progress": 0.42,
    "stage": "prune",
    "message": "Block 12 of 30 is pruned.",
    "data": {"block": 12, "blocks": 30},
    "created_at": "2026-05-04T09:21:07.512000Z",
}
_PUSH: dict[str, Any] = {**HUB_PUSH, "commit": None, "url": None, "error": None}
JOB: dict[str, Any] = {
    "object": "job",
    "id": JOB_ID,
    "name": "smollm2 at 2:4",
    "metadata": {"team": "research"},
    "sweep_id": None,
    "priority": 0,
    "state": "running",
    "progress": 0.42,
    "stage": "prune",
    "attempt": 1,
    "spec": SPEC,
    "error": None,
    "created_at": "2026-05-04T09:19:58.120000Z",
    "started_at": "2026-05-04T09:20:01.004000Z",
    "finished_at": None,
    "artifacts_expire_at": None,
    "verdict": None,
    "push_to_hub": _PUSH,
    "cancel_requested_at": None,
    "estimated_seconds_left": 91.5,
    "links": {
        "self": f"/v1/jobs/{JOB_ID}",
        "events": f"/v1/jobs/{JOB_ID}/events",
        "report": f"/v1/jobs/{JOB_ID}/report",
        "artifacts": f"/v1/jobs/{JOB_ID}/artifacts",
        "lineage": f"/v1/jobs/{JOB_ID}/lineage",
    },
}


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_has_nul(part) for pair in value.items() for part in pair)
    return isinstance(value, list) and any(map(_has_nul, value))


class JobOutput(OutputSpec):
    """What a job leaves, and where else it goes."""

    model_config = example({"format": "both", "push_to_hub": HUB_PUSH})

    push_to_hub: HubPush | None = Field(
        None, description="Pushes the finished model to a repository of the Hugging Face Hub as well."
    )


class Submission(PruneSpec):
    """What is asked for, and what you want to know it by."""

    name: str | None = Field(None, min_length=1, max_length=128, description="What you call it.")
    metadata: dict[
        Annotated[str, StringConstraints(min_length=1, max_length=64)],
        Annotated[str, StringConstraints(max_length=512)],
    ] = Field(
        default_factory=dict, max_length=16, description="Up to 16 pairs of your own, given back as they are."
    )
    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="Of the jobs of one API key that wait the one with the highest priority starts first. Keys "
        "take turns, whatever the priorities of their jobs.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_nul(cls, data: Any) -> Any:
        # Neither paths nor PostgreSQL can hold one.
        if _has_nul(data):
            raise ValueError("The request holds a NUL character (\\u0000). Remove it.")
        return data

    @property
    def spec(self) -> PruneSpec:
        """The run alone."""
        own = set(type(self).model_fields) - set(PruneSpec.model_fields)
        return PruneSpec.model_validate(
            self.model_dump(exclude={**dict.fromkeys(own, True), "output": {"push_to_hub"}})
        )


class JobCreate(Submission):
    """A pruning job to be queued: the run, and what you want to know it by."""

    model_config = example(
        {
            "model": "smollm2-135m-instruct",
            "pattern": "2:4",
            "method": "eggs",
            "min_degree": 4,
            "calibration": {"source": "pydocs", "samples": 32, "sequence_length": 1024, "seed": 0},
            "name": "smollm2 at 2:4",
            "metadata": {"team": "research"},
        }
    )

    output: JobOutput = JobOutput()
    hub_token: SecretStr | None = Field(
        None,
        min_length=1,
        max_length=512,
        description="A token of the Hugging Face Hub that may write to the repository of `output.push_to_hub`. It "
        "is stored encrypted until the job ends, and shown to nobody. Without one the service's own is used, if "
        "it has any.",
        json_schema_extra={"writeOnly": True},
    )

    @model_validator(mode="after")
    def _token_is_for_a_push(self) -> Self:
        if self.hub_token is not None and self.output.push_to_hub is None:
            raise ValueError("hub_token is for output.push_to_hub, which is missing. Add it, or leave both out.")
        return self


class PushResource(HubPush):
    """Where a job's model is pushed to, and what became of it."""

    model_config = example(_PUSH)

    commit: str | None = Field(None, description="The commit, once it is there.")
    url: str | None = Field(None, description="Its page.")
    error: dict[str, Any] | None = Field(
        None,
        description="The problem (RFC 9457) that stood in the way; the job has succeeded nevertheless, and its "
        "files are there.",
    )


class JobLinks(BaseModel):
    """Where to go on from a job."""

    model_config = example(JOB["links"])

    self: str = Field(description="The job.")
    events: str = Field(description="Its events, as JSON pages or server-sent events.")
    report: str = Field(description="Its report, once it has succeeded.")
    artifacts: str = Field(description="Its files, once it has succeeded.")
    lineage: str = Field(description="What led to them, once it has succeeded.")


class JobResource(BaseModel):
    """A pruning job and how it stands."""

    model_config = example(JOB)

    object: Literal["job"] = "job"
    id: str = Field(description="Sorts by creation.")
    name: str | None = Field(description="As it was given.")
    metadata: dict[str, str] = Field(description="As it was given.")
    sweep_id: str | None = Field(description="The sweep it belongs to.")
    priority: int = Field(description="As it was given.")
    state: JobState
    progress: float = Field(ge=0, le=1, description="Share of the work that is done; it never falls.")
    stage: str | None = Field(description="What the worker is at, or was at when it failed.")
    attempt: int = Field(
        description="How many workers have taken the job; more than 1 if one was lost or stopped."
    )
    spec: PruneSpec | dict[str, Any] = Field(
        description="The run, with every default filled in; as it was stored where another version of the service "
        "did so and it is not valid any more."
    )
    error: dict[str, Any] | None = Field(description="For a failed job, the problem (RFC 9457) that ended it.")
    created_at: datetime
    started_at: datetime | None = Field(description="When the first worker took the job.")
    finished_at: datetime | None
    artifacts_expire_at: datetime | None = Field(
        description="When the files of a job that succeeded are removed; null where they are kept."
    )
    verdict: Verdict | None = Field(
        description="For a job that succeeded and asked for `accept_if`; the report says why."
    )
    push_to_hub: PushResource | None = Field(description="For a job that asked for it.")
    cancel_requested_at: datetime | None
    estimated_seconds_left: float | None = Field(
        description="While the job runs: its time so far, carried on at the same pace."
    )
    links: JobLinks

    @classmethod
    def of(cls, job: Job) -> Self:
        """As the API shows it."""
        path = f"/v1/jobs/{job.id}"
        return cls(
            id=job.id,
            name=job.name,
            metadata=job.metadata_,
            sweep_id=job.sweep_id,
            priority=job.priority,
            state=job.state,
            progress=job.progress,
            stage=job.stage,
            attempt=job.attempt,
            spec=_spec(job),
            error=job.error,
            created_at=job.created_at,
            started_at=job.started_at,
            finished_at=job.finished_at,
            artifacts_expire_at=job.artifacts_expire_at,
            verdict=None if job.verdict is None else Verdict(job.verdict),
            # Another version of the service may have stored more.
            push_to_hub=None
            if job.push_to_hub is None
            else PushResource.model_validate(job.push_to_hub, extra="ignore"),
            cancel_requested_at=job.cancel_requested_at,
            estimated_seconds_left=_seconds_left(job),
            links=JobLinks(
                self=path,
                events=f"{path}/events",
                report=f"{path}/report",
                artifacts=f"{path}/artifacts",
                lineage=f"{path}/lineage",
            ),
        )


class JobList(Page[JobResource, str]):
    """One page of jobs. For the next one, pass `last_id` as `after`."""

    model_config = example_list(JOB)


class JobEventResource(BaseModel):
    """Something that happened to a job, and how the job stood after it."""

    model_config = example(_EVENT)

    object: Literal["job.event"] = "job.event"
    id: int = Field(description="Sequence number within the job: 1, 2, 3, …")
    job_id: str
    type: str = Field(
        description="`job.queued`, `job.running`, `job.progress`, `job.cancel_requested`, `job.succeeded`, "
        "`job.failed` or `job.cancelled`; more may come."
    )
    state: JobState
    progress: float = Field(ge=0, le=1)
    stage: str | None
    message: str = Field(description="For people to read.")
    data: dict[str, Any] = Field(description="For programs to read; depends on the type.")
    created_at: datetime

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """As the API shows it."""
        return cls(
            id=event.sequence,
            job_id=event.job_id,
            type=event.type,
            state=event.state,
            progress=event.progress,
            stage=event.stage,
            message=event.message,
            data=event.data,
            created_at=event.created_at,
        )


class JobEventList(Page[JobEventResource, int]):
    """One page of a job's events, oldest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_EVENT)


def _spec(job: Job) -> PruneSpec | dict[str, Any]:
    try:
        return PruneSpec.model_validate(job.spec)
    except ValidationError:
        return job.spec


def _seconds_left(job: Job) -> float | None:
    if job.state is not JobState.RUNNING or job.started_at is None or not job.progress:
        return None
    elapsed = (utcnow() - job.started_at).total_seconds()
    return round(elapsed * (1 - job.progress) / job.progress, 1)
