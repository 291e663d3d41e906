"""Keeps a worker running beside the API, and leaves nothing behind."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time

from app.parent import ENVIRONMENT_VARIABLE
from app.settings import Settings

_LONGEST_PAUSE = 30
_GRACE_SECONDS = 10

logger = logging.getLogger(__name__)


class WorkerSupervisor:
    """Keeps one worker running, from `start` to `stop`; a worker that dies is started again, ever less eagerly."""

    def __init__(self, settings: Settings) -> None:
        self._environment = os.environ | settings.environment()
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        # The worker watches the read end (`app.parent`): however this process ends, the write end closes,
        # and the worker ends too.
        self._watched, self._held = os.pipe()
        self._thread = threading.Thread(target=self._run, name="worker-supervisor", daemon=True)

    def start(self) -> None:
        """Starts the worker."""
        self._thread.start()

    def stop(self) -> None:
        """Stops the worker and all that it has started. A job it was at is taken up again at the next start."""
        with self._starting:
            self._stopping.set()
        if (process := self._process) is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                logger.warning("The worker does not stop; a job that it was at waits out its lease")
            _kill_group(process.pid)
        self._thread.join()
        os.close(self._held)
        os.close(self._watched)

    def _run(self) -> None:
        pause = 1
        while (process := self._start_worker()) is not None:
            started = time.monotonic()
            code = process.wait()
            _kill_group(process.pid)  # what it may have left behind
            if self._stopping.is_set():
                return
            pause = 1 if time.monotonic() - started > 2 * _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)
            logger.error("The worker ended with %s; another one starts in %s seconds", code, pause)
            self._stopping.wait(pause)

    def _start_worker(self) -> subprocess.Popen[bytes] | None:
        with self._starting:
            if self._stopping.is_set():
                return None
            self._process = subprocess.Popen(
                [sys.executable, "-m", "app.parent", "worker"],
                env=self._environment | {ENVIRONMENT_VARIABLE: str(self._watched)},
                pass_fds=[self._watched],
                start_new_session=True,
            )
            return self._process


def _kill_group(leader: int) -> None:
    try:
        os.killpg(leader, signal.SIGKILL)
    except ProcessLookupError:
        return
