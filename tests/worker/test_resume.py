"""Jobs whose workers are killed at random blocks, again and again: each ends once, with the same bytes."""

import random
import re
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
KILLS_PER_JOB = 4
BLOCKS = 24

pytestmark = pytest.mark.parametrize(("database_url", "broker"), [("postgresql", "redis")], indirect=True)


def begun_last(log: Path) -> tuple[str, int] | None:
    """The job, and the attempt at it, that a worker has begun last."""
    begun = re.findall(r"job_id=(job_\w+) attempt=(\d+): Started", log.read_text())
    return (begun[-1][0], int(begun[-1][1])) if begun else None


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
    settings.max_attempts = KILLS_PER_JOB + 1
    calibration = {"samples": 2, "sequence_length": 32}

    def submit() -> str:
        job_id = make_job(
            sessions, model=model, calibration=calibration, evaluation=None, output={"format": "dense"}
        )
        ring(broker, job_id)
        return job_id

    undisturbed = submit()
    # More than twenty processes would import torch otherwise.
    workers = [start_worker(preloaded=True), start_worker(preloaded=True)]
    logs = [tmp_path / f"worker-{number}.log" for number in range(2)]
    wait_for(lambda: read_job(sessions, undisturbed).state.final)
    chance = random.Random(0)
    killed: Counter[str] = Counter()
    moments: dict[str, list[float]] = {}  # of a job: how far it is to be each time

    def submit_another() -> None:
        moments[submit()] = sorted(chance.random() for _ in range(KILLS_PER_JOB))

    def to_be_killed(job_id: str, attempt: int) -> bool:
        if job_id not in moments or attempt != killed[job_id] + 1 or attempt > KILLS_PER_JOB:
            return False
        job = read_job(sessions, job_id)
        assert job.attempt <= killed[job_id] + 1, "an attempt that nobody killed was lost"
        return (
            (job.state, job.attempt) == (JobState.RUNNING, attempt)
            and job.stage != "publish"  # its end may be on the way to the database
            and job.progress >= moments[job_id][killed[job_id]]
        )

    def kill_another() -> bool:
        if all(read_job(sessions, job_id).state.final for job_id in moments):
            submit_another()  # some have come to their end before their time
        for worker, log in zip(workers, logs, strict=True):
            begun = begun_last(log)
            if begun is None or not to_be_killed(*begun):
                continue
            processes = psutil.Process(worker.pid).children()
            for process in processes:
                process.suspend()
            hit = to_be_killed(*begun)  # and so it stays
            for process in processes:
                process.kill() if hit else process.resume()
            killed[begun[0]] += hit
        return killed.total() == KILLS

    for _ in range(KILLS // KILLS_PER_JOB):
        submit_another()
    wait_for(kill_another, seconds=400)
    for job_id in moments:
        wait_for(lambda job_id=job_id: read_job(sessions, job_id).state.final, seconds=120)  # type: ignore[misc]
        job = read_job(sessions, job_id)
        assert (job.state, job.error) == (JobState.SUCCEEDED, None)
        assert job.attempt - 1 == job.workers_lost == killed[job_id]
        assert [e.type for e in events_of(sessions, job_id)].count("job.succeeded") == 1
        assert sums_of(sessions, job_id) == sums_of(sessions, undisturbed)
    wait_for(lambda: not list(settings.staging_dir.iterdir()))
