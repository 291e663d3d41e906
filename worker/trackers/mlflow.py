"""MLflow, by its client and that one's own variables: the server is the one that MLFLOW_TRACKING_URI names."""

import os
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow.pyfunc
from mlflow.entities import Experiment, Metric, Param, RunTag
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

import eggs_core
from app.jobs.models import JobState
from app.settings import Settings
from worker.trackers import pruned_model
from worker.trackers.figures import distinct, figures, name_of, of_layers, parameters, provenance
from worker.trackers.tracker import End, Point, TrackedJob

_JOB_ID = "eggs.job_id"
_STATUS = {
    JobState.QUEUED: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
}
_EXISTS = "RESOURCE_ALREADY_EXISTS"
# What one request takes.
_METRICS = 1000
_PARAMETERS = 100
# What loading a model needs, beside eggs_core, which goes along.
_REQUIREMENTS = (
    "mlflow-skinny",
    "numpy",
    "pandas",
    "psutil",
    "pydantic",
    "safetensors",
    "torch",
    "transformers",
    "wrapt",
)


class Run:
    """The run that has the job's id for a tag."""

    def __init__(self, job: TrackedJob, settings: Settings) -> None:
        self._job = job
        self._client = MlflowClient()
        experiment_id = self._experiment().experiment_id
        run = self._find(experiment_id)
        if run is None:
            run = self._client.create_run(experiment_id, run_name=job.name or job.id, tags={_JOB_ID: job.id})
        self._id = run.info.run_id
        self._client.update_run(self._id, status=_STATUS[JobState.RUNNING])
        self._tag(
            {
                "eggs.project": job.project,
                "eggs.attempt": str(job.attempt),
                "eggs.version": version("eggs"),
                **({} if job.sweep_id is None else {"eggs.sweep_id": job.sweep_id}),
                **{
                    f"eggs.metadata.{name}": value
                    for name, value in zip(
                        distinct(map(name_of, job.metadata)), job.metadata.values(), strict=True
                    )
                },
            }
        )
        if not run.data.params:
            self._parameters(parameters(job.spec))
        self._last_block = -1
        if "progress" in run.data.metrics:
            self._last_block = max(m.step for m in self._client.get_metric_history(self._id, "progress"))

    def log(self, points: list[Point]) -> None:
        """As `Tracker` says; leaves out the blocks that an attempt before has logged."""
        new = [point for point in points if point.block > self._last_block]
        self._metrics(
            Metric(name, value, int(point.seconds * 1000), point.block)
            for point in new
            for name, value in point.figures.items()
        )
        self._last_block = max([self._last_block, *(point.block for point in new)])

    def end(self, end: End) -> None:
        """As `Tracker` says. A run that has failed to take all of the end is ended nevertheless."""
        try:
            self._tell(end)
        finally:
            self._client.update_run(self._id, status=_STATUS[end.state])

    def _tell(self, end: End) -> None:
        if end.problem is not None:
            self._tag({"eggs.problem": end.problem["type"], "eggs.problem.detail": end.problem["detail"]})
        if end.report is None:
            return
        now = int(time.time() * 1000)
        self._metrics(Metric(name, value, now, 0) for name, value in figures(end.report).items())
        self._metrics(
            Metric(name, value, now, block)
            for block, layers in enumerate(of_layers(end.report))
            for name, value in layers.items()
        )
        self._parameters(provenance(end.report))
        verdict = {} if end.report.acceptance is None else {"eggs.verdict": end.report.acceptance.verdict.value}
        self._tag(verdict)
        for name, file in end.files.items():
            folder = str(PurePosixPath(name).parent)
            self._client.log_artifact(self._id, str(file), None if folder == "." else folder)
        if end.model is not None:
            self._register(
                end.model,
                {
                    _JOB_ID: self._job.id,
                    "eggs.pattern": str(end.report.pattern),
                    "eggs.method": end.report.method.value,
                    **verdict,
                },
            )

    def _register(self, checkpoint: Path, tags: dict[str, str]) -> None:
        """Uploads the model, and makes it the newest version of the one that is registered for its base model."""
        model_id = Model.log(
            None,
            _Flavor(checkpoint),
            name="model",
            run_id=self._id,
            tags=tags,
            flavor_name=mlflow.pyfunc.FLAVOR_NAME,
            validate_serving_input=False,  # which would load the model
        ).model_id
        name = self._job.model_name
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != _EXISTS:
                raise
        self._client.create_model_version(name, f"models:/{model_id}", self._id, tags, model_id=model_id)

    def _experiment(self) -> Experiment:
        name = os.environ["MLFLOW_EXPERIMENT_NAME"]
        while (experiment := self._client.get_experiment_by_name(name)) is None:
            try:
                self._client.create_experiment(name)
            except MlflowException as error:
                if error.error_code != _EXISTS:  # another worker was faster
                    raise
        return experiment

    def _find(self, experiment_id: str) -> StoredRun | None:
        found = self._client.search_runs([experiment_id], f"tags.`{_JOB_ID}` = '{self._job.id}'", max_results=1)
        return found[0] if found else None

    def _metrics(self, metrics: Iterator[Metric]) -> None:
        every = list(metrics)
        for start in range(0, len(every), _METRICS):
            self._client.log_batch(self._id, metrics=every[start : start + _METRICS])

    def _parameters(self, values: dict[str, str]) -> None:
        every = [Param(name, value) for name, value in values.items()]
        for start in range(0, len(every), _PARAMETERS):
            self._client.log_batch(self._id, params=every[start : start + _PARAMETERS])

    def _tag(self, tags: dict[str, str]) -> None:
        self._client.log_batch(self._id, tags=[RunTag(name, value) for name, value in tags.items()])


class _Flavor:
    """Makes an MLflow model of a checkpoint. It links to the files, which may be large; MLflow would copy them."""

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint

    def save_model(self, path: str, mlflow_model: Model, **_: Any) -> None:
        """Writes the model's folder."""
        mlflow.pyfunc.save_model(
            path,
            mlflow_model=mlflow_model,
            python_model=pruned_model.__file__,
            code_paths=[str(Path(eggs_core.__file__).parent)],
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in _REQUIREMENTS],
            input_example=(["Once upon a time"], {"max_new_tokens": pruned_model.MAX_NEW_TOKENS}),
            signature=ModelSignature(
                inputs=Schema([ColSpec(DataType.string)]),
                outputs=Schema([ColSpec(DataType.string)]),
                params=ParamSchema([ParamSpec("max_new_tokens", DataType.integer, pruned_model.MAX_NEW_TOKENS)]),
            ),
        )
        target = Path(path) / pruned_model.CHECKPOINT
        target.mkdir()
        size = 0
        for file in filter(Path.is_file, self._checkpoint.iterdir()):
            (target / file.name).symlink_to(file.absolute())
            size += file.stat().st_size
        mlflow_model.model_size_bytes = size
        # Where the code lies here is nobody's business, and its name is enough.
        mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]["model_code_path"] = Path(pruned_model.__file__).name
        mlflow_model.save(str(Path(path) / "MLmodel"))
