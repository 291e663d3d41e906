"""Tells a tracker of a job from a thread of its own, so that one that is slow or away holds nothing up."""

import contextvars
import logging
import re
import threading
from collections.abc import Callable
from functools import partial

from worker.trackers.tracker import End, Point, Tracker

# Between two tries to reach a tracker while its job goes on.
_PAUSE_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Feed:
    """Keeps what is said of one job until its tracker has taken it.

    What fails while the job goes on is tried again, with what has come meanwhile. The end is tried once. `make`
    begins the run.
    """

    def __init__(self, name: str, make: Callable[[], Tracker]) -> None:
        self.name = name
        self._make = make
        self._tracker: Tracker | None = None
        self._points: list[Point] = []  # few: one for each block
        self._end: End | None = None
        self._news = threading.Condition()
        run = partial(contextvars.copy_context().run, self._run)  # for the job's id in its lines of the log
        self._thread = threading.Thread(target=run, name=f"feed of {name}", daemon=True)
        self._thread.start()

    def log(self, point: Point) -> None:
        """Passes on what is known of a block."""
        with self._news:
            self._points.append(point)
            self._news.notify()

    def end(self, end: End) -> None:
        """Passes on the end of the attempt, once all else is; only the first one counts."""
        with self._news:
            self._end = self._end or end
            self._news.notify()

    def ended(self, seconds: float) -> bool:
        """Waits for the tracker to take all, for so long at most; whether it has, or will not."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        failing = False
        while True:
            with self._news:
                if failing:
                    self._news.wait_for(lambda: self._end is not None, _PAUSE_SECONDS)
                else:
                    self._news.wait_for(lambda: self._tracker is None or self._points or self._end is not None)
                points, end = list(self._points), self._end
            try:
                self._tell(points, end)
            except Exception as error:  # a library of others, and a server of others
                if not failing or end is not None:
                    logger.warning("The job goes on without %s: %s", self.name, _without_secrets(error))
                failing = True
            else:
                if failing:
                    logger.info("%s is back", self.name)
                failing = False
            if end is not None:
                return

    def _tell(self, points: list[Point], end: End | None) -> None:
        if self._tracker is None:
            self._tracker = self._make()
        if points:
            self._tracker.log(points)
            with self._news:
                del self._points[: len(points)]
        if end is not None:
            self._tracker.end(end)


def _without_secrets(error: Exception) -> str:
    """What an error says on one line, without the user and password of a URL."""
    return re.sub(r"//[^/@\s]+@", "//", f"{type(error).__name__}: {error}")
