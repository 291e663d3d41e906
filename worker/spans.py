"""The trace of an attempt at a job: below the request that made the job, with a span for each stage."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import time_ns

from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

from app import tracing
from app.jobs.leases import Lease
from eggs_core.progress import ProgressEvent

_tracer = trace.get_tracer("eggs.worker")


class Stages:
    """The stages of an attempt, one after the other. Each begins where the one before had its last step."""

    def __init__(self) -> None:
        self._last_step = time_ns()
        self._begin("open")

    def progressed(self, event: ProgressEvent) -> None:
        """A step is done; that of a block is an event of its stage's span."""
        self.enter(event.stage)
        if "block" in event.data:
            self._span.add_event("block", {name: value for name, value in event.data.items() if value is not None})
        self._last_step = time_ns()

    def enter(self, stage: str) -> None:
        """The steps from now on are of this stage."""
        if stage != self._stage:
            self._span.end(self._last_step)
            self._begin(stage)

    def end(self) -> None:
        """There are no more steps."""
        self._span.end()

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._span: Span = _tracer.start_span(stage, start_time=self._last_step)


@contextmanager
def attempt(lease: Lease) -> Iterator[Stages]:
    """Traces an attempt from its beginning to its end."""
    attributes: dict[str, str | int] = {
        "eggs.job.id": lease.job_id,
        "eggs.job.attempt": lease.attempt,
        "eggs.job.model": lease.spec.model,
        "eggs.job.method": lease.spec.method,
        "eggs.job.pattern": str(lease.spec.pattern),
    }
    above = tracing.parent(lease.traceparent)
    with _tracer.start_as_current_span("job", above, kind=SpanKind.CONSUMER, attributes=attributes):
        stages = Stages()
        try:
            yield stages
        finally:
            stages.end()
    tracing.flush()


def outcome(kind: str, problem: str | None = None) -> None:
    """Notes in the attempt at hand how it ends."""
    span = trace.get_current_span()
    span.set_attribute("eggs.job.outcome", kind)
    if problem is not None:
        span.set_status(StatusCode.ERROR, problem)


def cut_short() -> None:
    """Ends the attempt at hand, whose process is about to end."""
    outcome("ended in the middle of a block")
    trace.get_current_span().end()
    tracing.flush()
