"""Jobs as runs of experiment trackers: in a real MLflow server, which may be away, and in W&B's files."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.db import utcnow
from app.dispatcher import dispatch
from app.jobs import service, tracked
from app.jobs.models import Job
from app.queue import make_celery
from app.settings import Settings
from eggs_core.report import Report
from tests.app.build import make_job, read_job
from tests.conftest import files_of, free_port, wait_for
from tests.documents.blocks import blocks_of
from tests.mlflow_server import MlflowServer, mlflow_server
from tests.tiny_models import MakeModel
from tests.worker.test_runner import in_thread, run_and_cancel
from worker.runner import run_job, run_next

__all__ = ["mlflow_server"]

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
BLOCKS = 3
SHORT = {"samples": 2, "sequence_length": 32}
PROMPT = "The import statement"
PASSWORD = "not-for-logs"
PAGE = Path(__file__).parents[2] / "docs" / "trackers.md"
# After the page's code, which loads a model with MLflow alone: what it makes of the prompt, and from which code.
SAY = """
import json, sys
inner = model.unwrap_python_model()
tokens = inner.tokenizer(sys.argv[1], return_tensors="pt")
out = inner.model.generate(**tokens, max_new_tokens=8, do_sample=False)[0].tolist()
import eggs_core
print(json.dumps([out, model.predict([sys.argv[1]], params={"max_new_tokens": 8}), eggs_core.__file__]))
"""
RUN = """
import sys
from threading import Event
from app.db import make_engine, make_sessions
from app.settings import Settings
from worker.runner import run_job
settings = Settings()
run_job(sys.argv[1], settings, make_sessions(make_engine(settings.database_url)), Event())
"""


@pytest.fixture
def request_body(settings: Settings, make_model: MakeModel) -> dict[str, Any]:
    model = make_model("llama", num_hidden_layers=BLOCKS)
    settings.model_roots.append(model)
    (settings.text_roots[0] / "held, out.txt").write_text("Names of texts are the user's. " * 50)
    return {
        "name": "a job of mine",
        "metadata": {"team; or so": "red"},
        "model": str(model),
        "min_degree": 2,
        "calibration": SHORT,
        "evaluation": SHORT | {"generations": 0, "sources": ["pydocs", "file:held, out.txt"]},
        "accept_if": {"perplexity_ratio": 1e9},
    }


@pytest.fixture
def long_body(settings: Settings, request_body: dict[str, Any], make_model: MakeModel) -> dict[str, Any]:
    """A job that something can happen to; its model is not handed over."""
    settings.track_models = False
    model = make_model("llama", num_hidden_layers=40)
    settings.model_roots.append(model)
    return request_body | {"model": str(model)}


@pytest.fixture
def experiment(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """One of this test's own, in MLflow."""
    settings.trackers = ["mlflow"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    return tmp_path.name


def runs_of(experiment: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    return list(client.search_runs([client.get_experiment_by_name(experiment).experiment_id]))


def report_of(settings: Settings, job: Job) -> tuple[Path, Report]:
    folder = settings.artifacts_dir / str(job.artifacts_dir)
    return folder, Report.model_validate_json((folder / "report.json").read_text())


def test_a_job_is_a_run_of_mlflow(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    folder, report = report_of(settings, read_job(sessions, job_id))
    client = MlflowClient()
    (run,) = runs_of(experiment)

    assert (run.info.status, run.info.run_name) == ("FINISHED", "a job of mine")
    tags = {name: value for name, value in run.data.tags.items() if name.startswith("eggs.")}
    assert tags == {
        "eggs.job_id": job_id,
        "eggs.project": "default",
        "eggs.attempt": "1",
        "eggs.version": report.versions["eggs"],
        "eggs.metadata.team-or-so": "red",
        "eggs.verdict": "accepted",
    }
    asked = {"model": request_body["model"], "pattern": "2:4", "method": "eggs", "effort": "balanced"}
    asked |= {
        "min_degree": "2",
        "calibration.samples": "2",
        "evaluation.sources": '["pydocs", "file:held, out.txt"]',
    }
    made_of = {
        "model.fingerprint": report.model.fingerprint,
        "calibration.fingerprint": report.calibration.fingerprint,
    }
    assert run.data.params.items() >= (asked | made_of).items()

    assert report.evaluation is not None
    measured, other = report.evaluation.texts
    assert run.data.metrics["evaluation/pydocs/perplexity/ratio"] == measured.perplexity.ratio
    assert run.data.metrics["evaluation/file-held-out.txt/perplexity/dense"] == other.perplexity.dense
    assert run.data.metrics["evaluation/pydocs/kl_divergence"] == measured.kl_divergence
    assert run.data.metrics["bytes/packed_checkpoint"] == report.bytes.packed_checkpoint

    def history(name: str) -> list[tuple[int, float]]:
        return sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))

    of_type = [layer for layer in report.layers if layer.type == "down_proj"]
    assert history("layers/down_proj/relative_output_error") == [
        (layer.block, layer.relative_output_error) for layer in of_type
    ]
    for name in ("progress", "prune/seconds", "prune/mean_relative_output_error"):
        assert [block for block, _ in history(name)] == list(range(BLOCKS)), name

    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        *("README.md", "SHA256SUMS", "report.json", "charts")
    }
    charts = {file.path for file in client.list_artifacts(run.info.run_id, "charts")}
    assert charts == {f"charts/{name}.svg" for name in ("kept_importance", "perplexity", "relative_output_error")}
    copy = Path(client.download_artifacts(run.info.run_id, "report.json", str(tmp_path)))
    assert copy.read_bytes() == (folder / "report.json").read_bytes()
    assert "down_proj" in Path(client.download_artifacts(run.info.run_id, sorted(charts)[0])).read_text()

    (version,) = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert version.name.startswith("eggs-")
    assert version.name.endswith(f"-{Path(request_body['model']).name}")
    assert (version.tags["eggs.job_id"], version.tags["eggs.verdict"]) == (job_id, "accepted")
    model = AutoModelForCausalLM.from_pretrained(folder / "packed")
    tokens = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    expected = model.generate(**tokens, max_new_tokens=8, do_sample=False)[0].tolist()
    (load,) = [block.text for block in blocks_of(PAGE) if block.language == "python"]
    load = load.replace("eggs-smollm2-135m-instruct/1", f"{version.name}/{version.version}")
    loaded = subprocess.run(
        [sys.executable, "-c", load + SAY, PROMPT],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        check=True,
    )
    generated, (said,), code = json.loads(loaded.stdout)
    assert generated == expected
    assert said == AutoTokenizer.from_pretrained(folder).decode(
        expected[tokens["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert Path(code).parts[-3:-1] == ("code", "eggs_core"), "the code comes with the model"


def test_a_job_that_another_attempt_goes_on_with_has_one_run(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    long_body: dict[str, Any],
) -> None:
    from mlflow import MlflowClient

    job_id = make_job(sessions, **long_body)
    stopping = Event()
    thread = in_thread(job_id, settings, sessions, stopping)
    wait_for(lambda: read_job(sessions, job_id).stage == "prune")
    wait_for(lambda: experiment_exists(experiment) and "progress" in runs_of(experiment)[0].data.metrics)
    stopping.set()
    thread.join()
    assert read_job(sessions, job_id).state == "queued"
    assert [run.info.status for run in runs_of(experiment)] == ["SCHEDULED"]

    run_job(job_id, settings, sessions, Event())
    (run,) = runs_of(experiment)
    assert (run.info.status, run.data.tags["eggs.attempt"]) == ("FINISHED", "2")
    history = MlflowClient().get_metric_history(run.info.run_id, "progress")
    assert sorted(metric.step for metric in history) == list(range(40)), "every block once"
    assert not MlflowClient().search_model_versions(f"run_id = '{run.info.run_id}'")


def experiment_exists(experiment: str) -> bool:
    from mlflow import MlflowClient

    return MlflowClient().get_experiment_by_name(experiment) is not None


def test_a_run_ends_as_its_job_does(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
) -> None:
    job_id = make_job(sessions, **request_body | {"pattern": "5:7"})
    run_job(job_id, settings, sessions, Event())
    (run,) = runs_of(experiment)
    assert (run.info.status, run.data.tags["eggs.problem"]) == ("FAILED", "urn:eggs:problem:pattern-does-not-fit")
    assert "q_proj has 32 input channels" in run.data.tags["eggs.problem.detail"]


def test_a_job_that_is_cancelled_is_a_run_that_is_killed(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    long_body: dict[str, Any],
) -> None:
    assert run_and_cancel(settings, sessions, long_body).state == "cancelled"
    (run,) = runs_of(experiment)
    assert (run.info.status, "eggs.problem" in run.data.tags) == ("KILLED", False)


def test_a_job_that_has_lost_its_last_worker_is_a_run_that_has_failed(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
) -> None:
    job_id = make_job(sessions, **request_body)
    lost = {"state": "running", "attempt": 3, "workers_lost": settings.max_attempts - 1, "lease_token": "lost"}
    long_ago = utcnow() - timedelta(hours=1)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_expires_at=long_ago, **lost))
    run_job(job_id, settings, sessions, Event())
    (run,) = runs_of(experiment)
    assert (run.info.status, run.data.tags["eggs.problem"]) == ("FAILED", "urn:eggs:problem:worker-lost")


def test_a_server_that_is_not_there_costs_a_line_of_the_log(
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://eggs:{PASSWORD}@127.0.0.1:{free_port()}")
    job_id = make_job(sessions, **request_body)
    with caplog.at_level(logging.INFO):
        run_job(job_id, settings, sessions, Event())
    assert read_job(sessions, job_id).state == "succeeded"
    assert "The job goes on without mlflow" in caplog.text
    assert PASSWORD not in caplog.text


def test_a_server_that_never_answers_holds_no_job_up(
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would wait for ten minutes; the job does not, and neither does a worker that is to stop."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        job_id, stopping = make_job(sessions, **request_body), Event()
        thread = in_thread(job_id, settings, sessions, stopping)
        wait_for(lambda: read_job(sessions, job_id).state == "succeeded", seconds=60)
        stopping.set()
        thread.join(60)
        assert not thread.is_alive()


def test_a_server_that_is_away_for_a_while_misses_nothing(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    long_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    job_id = make_job(sessions, **long_body)
    thread = in_thread(job_id, settings, sessions)
    wait_for(lambda: experiment_exists(experiment) and runs_of(experiment))
    with mlflow_server.paused():
        wait_for(lambda: "The job goes on without mlflow" in caplog.text)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    thread.join()
    (run,) = runs_of(experiment)
    history = MlflowClient().get_metric_history(run.info.run_id, "progress")
    assert (run.info.status, sorted(metric.step for metric in history)) == ("FINISHED", list(range(40)))


def test_a_job_that_never_began_has_no_run(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
) -> None:
    job_id = make_job(sessions, **request_body)
    with sessions.begin() as session:
        service.cancel(session, "default", job_id)
    run_job(job_id, settings, sessions, Event())  # its message is still in the queue
    assert not experiment_exists(experiment)


def test_another_worker_tells_of_the_end_where_the_jobs_own_was_killed_before_it_could(
    mlflow_server: MlflowServer,
    experiment: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    long_body: dict[str, Any],
) -> None:
    from mlflow import MlflowClient

    job_id = make_job(sessions, **long_body)
    worker = subprocess.Popen(
        [sys.executable, "-c", RUN, job_id], env=os.environ | settings.environment(), stderr=subprocess.DEVNULL
    )
    wait_for(lambda: experiment_exists(experiment) and runs_of(experiment))
    with mlflow_server.paused():
        try:
            wait_for(lambda: read_job(sessions, job_id).state == "succeeded")
        finally:
            worker.kill()
            worker.wait()
    assert [run.info.status for run in runs_of(experiment)] == ["RUNNING"]
    celery = make_celery(settings)
    assert dispatch(sessions, celery, timedelta()) == [], "its own worker may be at it"
    with sessions.begin() as session:
        session.execute(update(Job).values(finished_at=utcnow() - timedelta(hours=1)))
    assert dispatch(sessions, celery, timedelta()) == [job_id]
    run_next(settings, sessions, Event())
    (run,) = runs_of(experiment)
    assert (run.info.status, run.data.tags["eggs.verdict"]) == ("FINISHED", "accepted")
    assert {file.path for file in MlflowClient().list_artifacts(run.info.run_id)} >= {"report.json", "charts"}
    for told in (job_id, other := make_job(sessions, **long_body | {"pattern": "5:7"})):
        run_job(told, settings, sessions, Event())
    with sessions.begin() as session:
        session.execute(update(Job).values(finished_at=utcnow() - timedelta(hours=1)))
    assert read_job(sessions, other).state == "failed"
    with sessions() as session:
        assert tracked.overlooked(session, 10) == [], "all ends are told"


def test_nothing_is_loaded_for_trackers_unless_they_are_asked_for(settings: Settings) -> None:
    program = "import sys, worker.app; print(sorted({'mlflow', 'wandb', 'matplotlib'} & set(sys.modules)))"
    environment = os.environ | settings.environment()
    shown = subprocess.run(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    assert shown.stdout == "[]\n"


def test_a_library_that_is_missing_is_named(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.trackers = ["wandb"]
    monkeypatch.setitem(sys.modules, "wandb", None)
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    assert read_job(sessions, job_id).state == "succeeded"
    assert "pip install eggs[wandb]" in caplog.text


def test_a_server_of_weights_and_biases_that_is_not_there_costs_a_line_of_the_log(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import wandb

    import worker.trackers.wandb

    wandb.teardown()  # it reads its variables once
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("WANDB_API_KEY", PASSWORD * 4)
    monkeypatch.setattr(worker.trackers.wandb, "_INIT_SECONDS", 1.0)
    settings.trackers = ["wandb"]
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    wandb.teardown()
    assert read_job(sessions, job_id).state == "succeeded"
    assert "The job goes on without wandb: CommError" in caplog.text
    assert "in use" not in caplog.text, "a run that could not be begun can be begun later"
    assert PASSWORD not in caplog.text


def wandb_records(file: Path) -> Iterator[Any]:
    """What a run's file holds: protobuf in the framing of LevelDB's log, after a header of seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    content = file.read_bytes()
    assert content[:4] == b":W&B"
    block_size, header_size, last_kinds = 32768, 7, (1, 4)
    place, record = header_size, b""
    while place + header_size <= len(content):
        if block_size - place % block_size < header_size:
            place += block_size - place % block_size
            continue
        length, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        place += header_size
        record += content[place : place + length]
        place += length
        if kind in last_kinds:
            yield Record.FromString(record)
            record = b""


def values_of(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_a_job_is_an_offline_run_of_weights_and_biases(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", PASSWORD * 4)
    settings.trackers = ["wandb"]
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    folder, report = report_of(settings, read_job(sessions, job_id))
    wandb.teardown()  # waits for the process that writes the file

    (file,) = settings.data_dir.glob(f"wandb/offline-run-*-{job_id}/run-{job_id}.wandb")
    records = list(wandb_records(file))
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.run_id, run.display_name, run.project) == (job_id, "a job of mine", "eggs")
    config = values_of(run.config.update)
    for record in records:
        config |= values_of(record.config.update)
    assert (config["pattern"], config["metadata.team; or so"]) == ("2:4", "red")
    assert config["model.fingerprint"] == report.model.fingerprint

    history = [values_of(record.history.item) for record in records if record.HasField("history")]
    for name in ("progress", "prune/seconds", "prune/mean_relative_output_error", "layers/q_proj/kept_importance"):
        assert [row["block"] for row in history if name in row] == list(range(BLOCKS)), name
    assert {name for row in history for name in row if name.startswith("charts/")} >= {
        *("charts/kept_importance/path", "charts/perplexity/path", "charts/relative_output_error/path")
    }
    summary: dict[str, Any] = {}
    for record in records:
        summary |= values_of(record.summary.update)
    assert report.evaluation is not None
    assert summary["evaluation/pydocs/perplexity/ratio"] == report.evaluation.texts[0].perplexity.ratio
    assert (summary["state"], summary["verdict"]) == ("succeeded", "accepted")
    (ended,) = [record.exit.exit_code for record in records if record.HasField("exit")]
    assert ended == 0

    artifacts = {record.artifact.type: record.artifact for record in records if record.HasField("artifact")}
    files = {
        kind: {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        for kind, artifact in artifacts.items()
    }
    charts = {f"charts/{name}.svg" for name in ("kept_importance", "perplexity", "relative_output_error")}
    assert files["report"].keys() == {"report.json", "README.md", "SHA256SUMS"} | charts
    assert set(files["model"]) == files_of(folder / "packed")
    for name, file in files["model"].items():
        assert file.read_bytes() == (folder / "packed" / name).read_bytes()
    assert job_id in artifacts["model"].aliases
    assert not [
        file for file in settings.data_dir.rglob("*") if file.is_file() and PASSWORD in str(file.read_bytes())
    ]
