"""Experiment trackers: each job a run in those that the operator names. Where one is down, the job goes on."""

import logging
import os
import time
from functools import partial
from importlib import import_module, util
from pathlib import Path
from tempfile import TemporaryDirectory

from app.jobs.models import Job, JobState
from app.settings import Settings
from eggs_core.checksums import CHECKSUMS
from eggs_core.journal import REPORT
from eggs_core.progress import ProgressEvent
from eggs_core.report import Report
from worker.heart import Signal
from worker.trackers.feed import Feed
from worker.trackers.tracker import End, Point, TrackedJob, Tracker

# How long a worker waits, after a job, for trackers to take the rest: models are large.
PATIENCE_SECONDS = 900.0
# And where its process is to end.
FAREWELL_SECONDS = 3.0
_CHECK_SECONDS = 0.2
_FILES = (REPORT, "README.md", CHECKSUMS)
_IN_THE_WAY = ("block", "blocks")
# Otherwise the libraries wait for minutes, have a log of their own, and tell their makers of their use.
_DEFAULTS = {
    "mlflow": {
        "MLFLOW_EXPERIMENT_NAME": "eggs",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    },
    "wandb": {"WANDB_PROJECT": "eggs", "WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false"},
}

logger = logging.getLogger(__name__)


class Trackers:
    """Those that follow an attempt at a job."""

    def __init__(self, settings: Settings, job: TrackedJob) -> None:
        self._settings = settings
        self._job = job
        self._last_step = time.monotonic()
        self._feeds: list[Feed] = []
        for name in settings.trackers:
            if util.find_spec(name) is None:
                logger.warning("The job goes on without %s: that needs `pip install eggs[%s]`", name, name)
                continue
            self._feeds.append(Feed(name, partial(_make, name, job, settings)))

    def __bool__(self) -> bool:
        return bool(self._feeds)

    def progressed(self, event: ProgressEvent) -> None:
        """A step is done. What is told of it is that of blocks that are pruned, which pass once."""
        now = time.monotonic()
        seconds, self._last_step = now - self._last_step, now
        if event.stage != "prune" or "block" not in event.data:
            return
        told = {f"prune/{name}": value for name, value in event.data.items() if name not in _IN_THE_WAY}
        figures = {name: float(value) for name, value in told.items() if value is not None}
        point = Point(
            event.data["block"], figures | {"prune/seconds": seconds, "progress": event.fraction}, time.time()
        )
        for feed in self._feeds:
            feed.log(point)

    def end(self, job: Job, folder: Path, stopping: Signal, patience: float = PATIENCE_SECONDS) -> bool:
        """Tells how the attempt has left its job, as it is stored now with its report, and what is in its folder.

        Returns when the trackers have taken it, or have failed to; at the latest after `patience` seconds, and
        soon where the worker is to stop. Then it is False: there was no word of the rest.
        """
        began = time.monotonic()
        with TemporaryDirectory() as scratch:
            end = self._end(job, folder, Path(scratch))
            for feed in self._feeds:
                feed.end(end)
            for feed in self._feeds:
                while not feed.ended(_CHECK_SECONDS):
                    waited = time.monotonic() - began
                    if waited > patience or (stopping.is_set() and waited > FAREWELL_SECONDS):
                        logger.warning("%s has not taken all of the job", feed.name)
                        break
            return all(feed.ended(0) for feed in self._feeds)

    def _end(self, job: Job, folder: Path, scratch: Path) -> End:
        if job.attempt != self._job.attempt:
            return End(JobState.RUNNING)  # another attempt has it
        if job.state is not JobState.SUCCEEDED:
            return End(job.state, job.error)
        report = Report.model_validate(job.report)
        charts = _charts(report, scratch)
        if not folder.is_dir():  # another worker's, which came to its end before it could tell
            return End(job.state, None, report, charts)
        files = {name: folder / name for name in _FILES} | charts
        return End(job.state, None, report, files, _model(folder) if self._settings.track_models else None)


def _make(name: str, job: TrackedJob, settings: Settings) -> Tracker:
    for variable, value in _DEFAULTS[name].items():
        os.environ.setdefault(variable, value)
    tracker: Tracker = import_module(f"{__name__}.{name}").Run(job, settings)
    return tracker


def _charts(report: Report, folder: Path) -> dict[str, Path]:
    try:
        from worker.trackers.charts import draw  # not earlier, as matplotlib costs a second

        return draw(report, folder)
    except Exception:
        logger.warning("Trackers get no charts of the job", exc_info=True)
        return {}


def _model(folder: Path) -> Path:
    """Where the model lies in the folder of a job: packed, where there is one."""
    from eggs_core.output import PACKED

    return folder / PACKED if (folder / PACKED).is_dir() else folder
