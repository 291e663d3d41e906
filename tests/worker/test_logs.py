"""The log of a worker, Celery's and the libraries' lines included: JSON, with the job and the attempt."""

import json
from pathlib import Path

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.queue import ring
from app.settings import Settings
from tests.app.build import make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker

SHORT = {"method": "magnitude", "calibration": {"samples": 1, "sequence_length": 16}, "evaluation": None}
pytestmark = pytest.mark.parametrize(("database_url", "broker"), [("sqlite", "filesystem")], indirect=True)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.log_format = "json"
    return settings


def test_lines_of_a_job_name_it_and_its_attempt(
    broker: Celery,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    start_worker: StartWorker,
    tmp_path: Path,
) -> None:
    model = make_model("llama")
    good = make_job(sessions, model=str(model), **SHORT)
    bad = make_job(sessions, model=str(model / "config.json"), **SHORT)
    for job_id in (good, bad):
        assert ring(broker, job_id)
    worker = start_worker()
    wait_for(lambda: all(read_job(sessions, job_id).state.final for job_id in (good, bad)), pause=0.2)
    worker.terminate()
    worker.wait(60)

    log = (tmp_path / "worker-0.log").read_text()
    lines = [
        json.loads(line) for line in log.splitlines() if line not in ("", "worker: Warm shutdown (MainProcess)")
    ]
    of_jobs = [line for line in lines if "job_id" in line]
    assert [(line["job_id"], line["attempt"], line["message"].partition(",")[0]) for line in of_jobs] == [
        (good, 1, "Started"),
        (good, 1, "Ended: succeeded"),
        (bad, 1, "Started"),
        (bad, 1, "Ended: failed"),
    ]
    assert of_jobs[-1]["message"].startswith("Ended: failed, urn:eggs:problem:")
    assert {"worker.runner", "celery.apps.worker", "celery.worker.strategy"} <= {line["logger"] for line in lines}
    assert all(line["timestamp"] and line["level"] for line in lines)
