"""Weights & Biases, by its library and that one's own variables: offline, unless WANDB_MODE says otherwise."""

import os
import shutil
from pathlib import Path
from typing import Any

import wandb

from app.jobs.models import JobState
from app.settings import Settings
from eggs_core.errors import NoSpace
from worker.trackers.figures import figures, of_layers, parameters, provenance
from worker.trackers.tracker import End, Point, TrackedJob

_BLOCK = "block"
# How long the library may wait for its server: for a run to begin, and for what it has not sent when it ends.
_INIT_SECONDS = 30.0
_FINISH_SECONDS = 300.0
_FAILED = 1


class Run:
    """The run whose id is the job's; its files are in the folder `wandb` of the data folder, or of WANDB_DIR."""

    def __init__(self, job: TrackedJob, settings: Settings) -> None:
        self._job = job
        self._reserve = settings.disk_reserve_bytes
        folder = Path(os.environ.get("WANDB_DIR", settings.data_dir))
        os.environ.setdefault("WANDB_DATA_DIR", str(folder / "wandb"))
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder / "wandb"))
        try:
            self._run = _init(job, folder)
        except Exception:
            wandb.teardown()  # or its process would have the run's id in use whenever the run is begun again
            raise
        self._run.define_metric(_BLOCK, hidden=True)
        for figures_of_blocks in ("prune/*", "layers/*", "progress"):
            self._run.define_metric(figures_of_blocks, step_metric=_BLOCK)

    def log(self, points: list[Point]) -> None:
        """As `Tracker` says."""
        for point in points:
            self._run.log({_BLOCK: point.block, **point.figures})

    def end(self, end: End) -> None:
        """As `Tracker` says."""
        try:
            self._tell(end)
        finally:
            if not end.state.final:
                self._run.mark_preempting()
            self._run.finish(exit_code=0 if end.state is JobState.SUCCEEDED else _FAILED)

    def _tell(self, end: End) -> None:
        self._run.summary["state"] = end.state.value
        if end.problem is not None:
            self._run.summary.update({"problem": end.problem["type"], "problem_detail": end.problem["detail"]})
        if end.report is None:
            return
        self._run.config.update(provenance(end.report), allow_val_change=True)
        for block, layers in enumerate(of_layers(end.report)):
            self._run.log({_BLOCK: block, **layers})
        self._run.log({name: wandb.Html(file.read_text(), inject=False) for name, file in _charts(end).items()})
        self._run.summary.update(figures(end.report))
        if end.report.acceptance is not None:
            self._run.summary["verdict"] = end.report.acceptance.verdict.value
        report = wandb.Artifact(f"{self._job.id}-report", type="report")
        for name, file in end.files.items():
            report.add_file(str(file), name)
        self._run.log_artifact(report)
        if end.model is not None:
            self._log_model(end.model)

    def _log_model(self, folder: Path) -> None:
        """Offline the files are copied to where `wandb sync` finds them; on the way to a server they stay."""
        files = [file for file in folder.iterdir() if file.is_file()]
        policy: Any = "immutable"
        if self._run.offline:
            policy = "mutable"
            if shutil.disk_usage(self._run.dir).free < sum(file.stat().st_size for file in files) + self._reserve:
                raise NoSpace("The disk has no room for the copy of the model that is kept for `wandb sync`.")
        model = wandb.Artifact(self._job.model_name, type="model")
        for file in files:
            model.add_file(str(file), policy=policy, skip_cache=True)  # or a copy of each would stay for ever
        self._run.log_artifact(model, aliases=[self._job.id])


def _init(job: TrackedJob, folder: Path) -> wandb.Run:
    return wandb.init(
        id=job.id,
        name=job.name or job.id,
        group=job.sweep_id,
        resume="allow",
        reinit="create_new",
        dir=folder,
        tags=[str(job.spec.pattern), job.spec.label],
        config={
            **parameters(job.spec),
            **{f"metadata.{name}": value for name, value in job.metadata.items()},
            "job_id": job.id,
            "project": job.project,
            "attempt": job.attempt,
        },
        # The job, and nothing of the machine that it runs on.
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_disable_machine_info=True,
            x_save_requirements=False,
            init_timeout=_INIT_SECONDS,
            finish_timeout=_FINISH_SECONDS,
        ),
    )


def _charts(end: End) -> dict[str, Path]:
    return {name.removesuffix(".svg"): file for name, file in end.files.items() if name.endswith(".svg")}
