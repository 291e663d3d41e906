"""A worker is seen from its start to its end, with the job that it is at, and is lost where it is killed."""

import os
import signal

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.settings import Settings
from app.workers import service
from app.workers.service import Seen
from tests.app.build import make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker

Sessions = sessionmaker[Session]

pytestmark = [
    # The kind whose files a process must not share with those that it forks.
    pytest.mark.parametrize("database_url", ["sqlite"], indirect=True),
    pytest.mark.parametrize("broker", ["filesystem"], indirect=True),
]


def test_a_worker_comes_works_and_goes(
    broker: Celery,
    dispatcher: None,
    sessions: Sessions,
    settings: Settings,
    make_model: MakeModel,
    start_worker: StartWorker,
) -> None:
    def seen() -> list[Seen]:
        with sessions() as session:
            return list(service.all_workers(session, "default", settings.lease_seconds))

    first = start_worker()
    (alone,) = wait_for(seen)
    assert (alone.worker.pid, alone.state, alone.job_id) == (first.pid, "online", None)
    assert alone.worker.memory_bytes > 0
    model = str(make_model("llama", num_hidden_layers=80))
    calibration = {"samples": 2, "sequence_length": 32}
    job_id = make_job(sessions, model=model, calibration=calibration, evaluation=None)
    wait_for(lambda: [worker.job_id for worker in seen()] == [job_id])
    assert [worker.state for worker in seen()] == ["busy"]
    first.send_signal(signal.SIGTERM)
    wait_for(lambda: first.poll() is not None)
    assert seen() == []

    second = start_worker()
    wait_for(lambda: [worker.job_id for worker in seen()] == [job_id])
    os.killpg(second.pid, signal.SIGKILL)
    wait_for(lambda: [worker.state for worker in seen()] == ["lost"])
    assert read_job(sessions, job_id).state == "running"
