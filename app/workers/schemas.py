"""What answers on workers look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.examples import JOB_ID, example, example_list
from app.pages import Page
from app.workers.service import Seen, WorkerState

_WORKER: dict[str, Any] = {
    "object": "worker",
    "id": "worker_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "state": "busy",
    "job_id": JOB_ID,
    "hostname": "gpu-3",
    "pid": 4711,
    "version": "0.1.0",
    "cpus": 16,
    "memory_bytes": 137438953472,
    "gpus": ["NVIDIA H100 80GB HBM3"],
    "gpu_memory_bytes": 85520809984,
    "started_at": "2026-05-04T09:00:00Z",
    "last_seen_at": None,
}


class WorkerResource(BaseModel):
    """A worker of the installation, which takes jobs of every project."""

    model_config = example(_WORKER)

    object: Literal["worker"] = "worker"
    id: str = Field(description="Sorts by start.")
    state: WorkerState = Field(
        description="`busy` with a job of the project; `online` where it is at none of those, and may be at "
        "another project's; `lost` where it has not been heard of for so long that its job goes to another one."
    )
    job_id: str | None = Field(description="The job of the project that it is at.")
    hostname: str
    pid: int
    version: str = Field(description="Of eggs.")
    cpus: int = Field(description="Processors of its machine.")
    memory_bytes: int = Field(description="Of its machine.")
    gpus: list[str] = Field(description="By name; none where jobs run on the CPU.")
    gpu_memory_bytes: int = Field(description="Of all of these together.")
    started_at: datetime
    last_seen_at: datetime | None = Field(description="When one that is lost was last heard of.")

    @classmethod
    def of(cls, seen: Seen) -> Self:
        """As the API shows it."""
        worker = seen.worker
        return cls(
            id=worker.id,
            state=seen.state,
            job_id=seen.job_id,
            hostname=worker.hostname,
            pid=worker.pid,
            version=worker.version,
            cpus=worker.cpus,
            memory_bytes=worker.memory_bytes,
            gpus=worker.gpus.splitlines(),
            gpu_memory_bytes=worker.gpu_memory_bytes,
            started_at=worker.started_at,
            last_seen_at=seen.last_seen_at,
        )


class WorkerList(Page[WorkerResource, str]):
    """All workers, the oldest first."""

    model_config = example_list(_WORKER)
