"""Jobs that are ended in the middle of a block: cancelled, handed back, or beyond a limit."""

from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.jobs import service
from app.jobs.models import Job
from app.queue import ring
from app.settings import Settings
from tests.app.build import make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker

INSTALLATIONS = [("postgresql", "redis")]
pytestmark = [
    pytest.mark.parametrize(("database_url", "broker"), INSTALLATIONS, indirect=True),
    pytest.mark.usefixtures("dispatcher"),
]
# A block of it takes minutes.
LONG: dict[str, Any] = {
    "effort": "best",
    "calibration": {"source": "file:long.txt", "samples": 3000, "sequence_length": 128},
    "evaluation": None,
}
SHORT = {"method": "magnitude", "calibration": {"samples": 1, "sequence_length": 16}, "evaluation": None}


@pytest.fixture
def model(broker: Celery, settings: Settings, make_model: MakeModel) -> Path:
    words = "".join(f"{number * number} words, " for number in range(150_000))
    (settings.text_roots[0] / "long.txt").write_text(words)
    return make_model("llama", num_hidden_layers=1)


def submit(broker: Celery, sessions: sessionmaker[Session], model: Path, **request: Any) -> str:
    job_id = make_job(sessions, model=str(model), **request)
    assert ring(broker, job_id)
    return job_id


def in_a_block(sessions: sessionmaker[Session], job_id: str) -> bool:
    job = read_job(sessions, job_id)
    assert not job.state.final, job.error
    return job.stage == "open"  # the last word before the end of the first block


def assert_the_next_job_succeeds(
    broker: Celery, sessions: sessionmaker[Session], settings: Settings, model: Path, ended: str
) -> None:
    following = submit(broker, sessions, model, **SHORT)
    wait_for(lambda: read_job(sessions, following).state == "succeeded", pause=0.2)
    assert not list(settings.staging_dir.glob(f"{ended}*"))
    job = read_job(sessions, ended)
    assert (job.attempt, job.workers_lost) == (1, 0)


def ended(sessions: sessionmaker[Session], job_id: str) -> Job | None:
    job = read_job(sessions, job_id)
    return job if job.state.final else None


def test_a_cancel_does_not_wait_for_a_long_block(
    broker: Celery, sessions: sessionmaker[Session], settings: Settings, model: Path, start_worker: StartWorker
) -> None:
    job_id = submit(broker, sessions, model, **LONG)
    worker = start_worker()
    wait_for(lambda: in_a_block(sessions, job_id))
    with sessions.begin() as session:
        service.cancel(session, "default", job_id)
    wait_for(lambda: read_job(sessions, job_id).state == "cancelled", seconds=30)
    assert_the_next_job_succeeds(broker, sessions, settings, model, job_id)
    assert worker.poll() is None


def test_a_worker_told_to_stop_does_not_wait_for_a_long_block(
    broker: Celery, sessions: sessionmaker[Session], model: Path, start_worker: StartWorker
) -> None:
    job_id = submit(broker, sessions, model, **LONG)
    worker = start_worker()
    wait_for(lambda: in_a_block(sessions, job_id))
    worker.terminate()
    assert worker.wait(10) == 0
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.workers_lost) == ("queued", 1, 0)


@pytest.mark.parametrize(
    ("variable", "value", "samples", "problem"),
    [
        ("EGGS_JOB_SECONDS", 30, 12_000, "job-took-too-long"),
        # Torch and a short job take 500 MiB; the activations of this one take as much again.
        ("EGGS_JOB_MEMORY_BYTES", 640 << 20, 12_000, "job-out-of-memory"),
    ],
)
def test_a_job_beyond_its_limit_ends_and_the_worker_goes_on(
    variable: str,
    value: int,
    samples: int,
    problem: str,
    broker: Celery,
    sessions: sessionmaker[Session],
    settings: Settings,
    model: Path,
    start_worker: StartWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, str(value))
    job_id = submit(broker, sessions, model, **LONG | {"calibration": LONG["calibration"] | {"samples": samples}})
    worker = start_worker()
    job = wait_for(lambda: ended(sessions, job_id), pause=0.2)
    assert job.state == "failed"
    assert job.error is not None
    assert job.error["type"] == f"urn:eggs:problem:{problem}"
    assert "EGGS_JOB_" in job.error["detail"]
    assert_the_next_job_succeeds(broker, sessions, settings, model, job_id)
    assert worker.poll() is None
