"""Jobs whose workers are killed at random blocks, again and again: each ends once, with the same bytes."""

import random
import re
import subprocess
from collections import Counter
from pathlib import Path

import psutil
import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import JobState
from app.queue import ring
from app.settings import Settings
from tests.app.build import events_of, make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker
from tests.worker.test_runner import sums_of

KILLS = 20
MOST_PER_JOB = 2  # the third would be one too many
BLOCKS = 24

pytestmark = pytest.mark.parametrize(("database_url", "broker"), [("postgresql", "redis")], indirect=True)


def job_at(log: Path) -> str | None:
    """The job that a worker has begun last."""
    begun = re.findall(r"job_id=(job_\w+) attempt=\d+: Started", log.read_text())
    return begun[-1] if begun else None


@pytest.mark.timeout(900)  # more than thirty processes that import torch, one after the other
@pytest.mark.usefixtures("dispatcher")
def test_jobs_survive_the_death_of_their_workers(
    start_worker: StartWorker,
    broker: Celery,
    sessions: sessionmaker[Session],
    settings: Settings,
    make_model: MakeModel,
    tmp_path: Path,
) -> None:
    model = str(make_model("llama", num_hidden_layers=BLOCKS))
    settings.model_roots = [Path(model).parent]
    calibration = {"samples": 2, "sequence_length": 32}

    def submit() -> str:
        job_id = make_job(
            sessions, model=model, calibration=calibration, evaluation=None, output={"format": "dense"}
        )
        ring(broker, job_id)
        return job_id

    undisturbed = submit()
    workers: list[subprocess.Popen[bytes]] = [start_worker(), start_worker()]
    logs = [tmp_path / f"worker-{number}.log" for number in range(2)]
    wait_for(lambda: read_job(sessions, undisturbed).state.final)
    chance = random.Random(0)
    jobs = [submit() for _ in range(KILLS // MOST_PER_JOB)]
    killed: Counter[str] = Counter()
    at = {job_id: chance.random() for job_id in jobs}

    def kill_another() -> bool:
        if all(read_job(sessions, job_id).state.final for job_id in jobs):
            jobs.append(submit())  # some have come to their end before their time
            at[jobs[-1]] = chance.random()
        for worker, log in zip(workers, logs, strict=True):
            job_id = job_at(log)
            if job_id not in jobs or killed[job_id] == MOST_PER_JOB:
                continue
            job = read_job(sessions, job_id)
            if job.state is JobState.RUNNING and job.attempt == killed[job_id] + 1 and job.progress >= at[job_id]:
                for child in psutil.Process(worker.pid).children():
                    child.kill()
                killed[job_id] += 1
                at[job_id] = chance.uniform(job.progress, 1)
        return killed.total() >= KILLS

    wait_for(kill_another, seconds=400)
    for job_id in jobs:
        wait_for(lambda job_id=job_id: read_job(sessions, job_id).state.final, seconds=120)  # type: ignore[misc]
        job = read_job(sessions, job_id)
        assert (job.state, job.error) == (JobState.SUCCEEDED, None)
        assert job.attempt - 1 == job.workers_lost <= killed[job_id]
        assert [e.type for e in events_of(sessions, job_id)].count("job.succeeded") == 1
        assert sums_of(sessions, job_id) == sums_of(sessions, undisturbed)
    assert not list(settings.staging_dir.iterdir())
