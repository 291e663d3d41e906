"""Publishing to a store that speaks S3, which goes away in the middle, or whose worker does."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import repository as artifacts_repository
from app.artifacts.store import open_store
from app.queue import ring
from app.settings import Settings
from tests.app.build import events_of, make_job, read_job
from tests.conftest import wait_for
from tests.object_store import ObjectStore, Way, bucket, credentials, download, is_part, keys_in, way
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker
from tests.worker.test_retries import end_pause
from worker.runner import run_job, run_next

__all__ = ["bucket", "credentials", "way"]

SHORT = {"samples": 2, "sequence_length": 32}


@pytest.fixture
def object_store(tmp_path: Path, credentials: None) -> Iterator[ObjectStore]:
    """A server that the test may stop."""
    folder = tmp_path / "weed"
    folder.mkdir()
    store = ObjectStore(folder)
    store.start()
    yield store
    store.stop()


@pytest.fixture
def request_body(settings: Settings, make_model: MakeModel) -> dict[str, Any]:
    """A job whose first file, the embeddings, is sent in several parts."""
    model = make_model("llama", vocab_size=300_000)
    settings.model_roots = [model.parent]
    return {"model": str(model), "calibration": SHORT, "evaluation": None, "output": {"format": "dense"}}


def assert_published(sessions: sessionmaker[Session], settings: Settings, job_id: str, bucket: str) -> None:
    """All the job's files, and nothing else, are in the bucket."""
    job = read_job(sessions, job_id)
    assert job.state == "succeeded"
    with sessions() as session:
        artifacts = artifacts_repository.of_job(session, job_id)
    assert keys_in(bucket) == {f"{job.artifacts_dir}/{artifact.name}" for artifact in artifacts}
    store = open_store(settings)
    for artifact in artifacts:
        url = store.find(str(job.artifacts_dir), artifact)
        assert len(download(str(url))) == artifact.bytes


def blocks_pruned(sessions: sessionmaker[Session], job_id: str) -> int:
    return sum(event.stage == "prune" and "block" in event.data for event in events_of(sessions, job_id))


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_store_that_goes_away_in_the_middle(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    object_store: ObjectStore,
    way: Way,
    bucket: str,
) -> None:
    """The job waits, shows nothing, and goes on with the parts that are missing."""
    settings.artifact_store_url = f"s3://{bucket}"
    job_id = make_job(sessions, **request_body)

    def stop_at_the_second_part(method: str, path: str) -> None:
        if is_part(method, path) and way.parts() == 2:
            object_store.stop()

    way.fault = stop_at_the_second_part
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.stage, job.retries, job.workers_lost) == ("queued", "publish", 1, 0)
    assert events_of(sessions, job_id)[-1].data["error"]["type"] == "urn:eggs:problem:store-unavailable"
    with sessions() as session:
        assert not artifacts_repository.of_job(session, job_id)

    object_store.start()
    way.fault = lambda method, path: None
    (upload,) = [key for key in keys_in(bucket) if key.startswith("unfinished ")]
    assert upload.endswith("model-00001-of-00003.safetensors")
    end_pause(sessions, job_id)
    run_next(settings, sessions, Event())
    assert_published(sessions, settings, job_id, bucket)
    assert blocks_pruned(sessions, job_id) == 2, "a finished block was pruned again"
    assert not list(settings.staging_dir.iterdir())


@pytest.mark.parametrize(("database_url", "broker"), [("postgresql", "redis")], indirect=True)
@pytest.mark.usefixtures("dispatcher")
def test_a_worker_that_is_killed_in_the_middle(
    settings: Settings,
    sessions: sessionmaker[Session],
    broker: Celery,
    request_body: dict[str, Any],
    way: Way,
    bucket: str,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one goes on with what is there, and prunes nothing again."""
    monkeypatch.setenv("EGGS_ARTIFACT_STORE_URL", f"s3://{bucket}")
    monkeypatch.setenv("EGGS_MODEL_ROOTS", str(settings.model_roots[0]))
    settings.artifact_store_url = f"s3://{bucket}"
    reached, killed = Event(), Event()

    def wait_at_the_third_part(method: str, path: str) -> None:
        if is_part(method, path) and way.parts() == 3:
            reached.set()
            killed.wait(60)

    way.fault = wait_at_the_third_part
    job_id = make_job(sessions, **request_body)
    ring(broker, job_id)
    worker = start_worker()
    wait_for(reached.is_set)
    os.killpg(worker.pid, signal.SIGKILL)
    killed.set()
    way.fault = lambda method, path: None
    start_worker()
    wait_for(lambda: read_job(sessions, job_id).state.final)
    assert_published(sessions, settings, job_id, bucket)
    job = read_job(sessions, job_id)
    assert (job.attempt, job.workers_lost) == (2, 1)
    assert blocks_pruned(sessions, job_id) == 2, "a finished block was pruned again"
