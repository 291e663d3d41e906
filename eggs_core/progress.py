"""How a run tells how far it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step done. `fraction` is of the whole run, from 0 to 1, and never falls."""

    stage: str
    fraction: float
    message: str
    data: dict[str, Any] = field(default_factory=dict)


ProgressCallback = Callable[[ProgressEvent], None]
"""Called between blocks; it may raise `eggs_core.errors.Cancelled` to stop the run."""


class Progress:
    """Counts work done against work planned, in tokens through one decoder block, the unit all stages share."""

    def __init__(self, callback: ProgressCallback | None, planned: float) -> None:
        self._callback = callback
        self._planned = planned
        self._done = 0.0

    def advance(self, stage: str, work: float, message: str, **data: Any) -> None:
        """Adds `work` and reports it."""
        self._done += work
        if self._callback is not None:
            self._callback(ProgressEvent(stage, min(self._done / self._planned, 1.0), message, data))
