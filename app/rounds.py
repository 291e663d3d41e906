"""Something that is done again and again beside the requests."""

import logging
from collections.abc import Callable
from threading import Event, Thread

_STOP_SECONDS = 5.0

logger = logging.getLogger(__name__)


class Rounds:
    """Calls `do` every `interval` seconds, in a thread, from `start` to `stop`; at once first."""

    def __init__(self, name: str, interval: float, do: Callable[[], object]) -> None:
        self._name = name
        self._interval = interval
        self._do = do
        self._stopped = Event()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the rounds."""
        self._thread.start()

    def stop(self) -> None:
        """Ends them, and waits some seconds for the one at hand."""
        self._stopped.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._do()
            except Exception:  # whatever it is: what only this thread does stays undone where it ends
                logger.exception("The %s could not finish a round; it tries again", self._name)
            self._stopped.wait(self._interval)
