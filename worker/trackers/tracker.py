"""What experiment trackers are told of a job, and what each of them does with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from app.jobs.models import Job, JobState
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from worker.trackers.figures import name_of


@dataclass(frozen=True, slots=True)
class TrackedJob:
    """What is known of a job at the beginning of an attempt. Nothing in it is secret."""

    id: str
    name: str | None
    project: str
    sweep_id: str | None
    metadata: Mapping[str, str]
    attempt: int
    spec: PruneSpec

    @classmethod
    def of(cls, job: Job) -> Self:
        """That of a stored job. Raises `ValidationError` where its request is not valid any more."""
        spec = PruneSpec.model_validate(job.spec)
        return cls(job.id, job.name, job.project, job.sweep_id, job.metadata_, job.attempt, spec)

    @property
    def model_name(self) -> str:
        """The model that its outcome is a version of, by the model that it prunes."""
        return f"eggs-{name_of(self.spec.model)}"


@dataclass(frozen=True, slots=True)
class Point:
    """Figures of one block."""

    block: int
    figures: Mapping[str, float]
    seconds: float
    """When, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt has left its job: ended, or queued again."""

    state: JobState
    problem: Mapping[str, Any] | None = None
    report: Report | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    """The report, what explains it, and its charts, by their paths in the tracker."""
    model: Path | None = None
    """The folder of the model, packed where there is a packed one; None where it is not to be handed over."""


class Tracker(Protocol):
    """One job's run in an experiment tracker; it goes on with the run of an attempt before.

    Any call may take long, and raises whatever the tracker's library does. Points that could not be logged come
    again.
    """

    def log(self, points: list[Point]) -> None:
        """Adds to the run what is known of blocks."""

    def end(self, end: End) -> None:
        """Ends the run, or leaves it to the next attempt."""
