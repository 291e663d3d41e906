"""Workers are killed in the middle of jobs, on the real queues; the jobs succeed afterwards, once."""

import os
import signal
from functools import partial

import psutil
import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.queue import ring
from app.settings import Settings
from tests.app.build import events_of, make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import StartWorker
from tests.worker.test_limits import SHORT, ended

INSTALLATIONS = [("sqlite", "filesystem"), ("postgresql", "redis"), ("postgresql", "rabbitmq")]
everywhere = pytest.mark.parametrize(("database_url", "broker"), INSTALLATIONS, indirect=True)


@pytest.fixture
def job_id(broker: Celery, sessions: sessionmaker[Session], make_model: MakeModel) -> str:
    short = {"samples": 2, "sequence_length": 32}
    model = str(make_model("llama", num_hidden_layers=40))
    job_id = make_job(sessions, model=model, min_degree=2, calibration=short, evaluation=None)
    assert ring(broker, job_id)
    return job_id


def assert_succeeded_once(sessions: sessionmaker[Session], job_id: str, settings: Settings, attempts: int) -> None:
    wait_for(lambda: read_job(sessions, job_id).state == "succeeded", pause=0.2)
    events = events_of(sessions, job_id)
    assert [e.type for e in events if e.type != "job.progress"] == [
        "job.queued",
        *["job.running"] * attempts,
        "job.succeeded",
    ]
    steps = [e.progress for e in events if e.type == "job.progress"]
    assert steps == sorted(steps), "progress fell back"
    job = read_job(sessions, job_id)
    assert job.attempt == attempts
    assert [f"{job_id}/{folder.name}" for folder in (settings.artifacts_dir / job_id).iterdir()] == [
        job.artifacts_dir
    ]
    wait_for(lambda: not list(settings.staging_dir.iterdir()))


@everywhere
@pytest.mark.usefixtures("dispatcher")
def test_worker_killed_in_the_middle(
    start_worker: StartWorker, sessions: sessionmaker[Session], settings: Settings, job_id: str
) -> None:
    first = start_worker()
    wait_for(lambda: read_job(sessions, job_id).progress > 0.1)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert read_job(sessions, job_id).state == "running"
    start_worker()
    assert_succeeded_once(sessions, job_id, settings, attempts=2)


# With Redis in test_resume.py, and with RabbitMQ in the test below.
@pytest.mark.parametrize(("database_url", "broker"), INSTALLATIONS[:1], indirect=True)
@pytest.mark.usefixtures("dispatcher")
def test_process_of_a_job_killed_leaves_the_worker(
    start_worker: StartWorker, sessions: sessionmaker[Session], settings: Settings, job_id: str
) -> None:
    worker = start_worker()
    wait_for(lambda: read_job(sessions, job_id).progress > 0.1)
    children = psutil.Process(worker.pid).children(recursive=True)
    assert children
    for child in children:
        child.kill()
    assert_succeeded_once(sessions, job_id, settings, attempts=2)
    assert worker.poll() is None, "the worker died with the process of its job"


@pytest.mark.parametrize(("database_url", "broker"), INSTALLATIONS[-1:], indirect=True)
@pytest.mark.usefixtures("dispatcher")
def test_a_job_that_costs_three_workers_is_not_tried_again(
    start_worker: StartWorker,
    broker: Celery,
    sessions: sessionmaker[Session],
    settings: Settings,
    make_model: MakeModel,
    job_id: str,
) -> None:
    def in_the_middle(attempt: int) -> bool:
        types = [event.type for event in events_of(sessions, job_id)]
        return types.count("job.running") == attempt and types[-1] == "job.progress"

    worker = start_worker(preloaded=True)
    for attempt in (1, 2, 3):
        wait_for(partial(in_the_middle, attempt))
        (process,) = psutil.Process(worker.pid).children()
        process.kill()
    job = wait_for(lambda: ended(sessions, job_id))
    assert (job.state, job.attempt) == ("failed", 3)
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:worker-lost"

    small = make_job(sessions, model=str(make_model("llama", num_hidden_layers=40)), **SHORT)
    assert ring(broker, small)
    wait_for(lambda: read_job(sessions, small).state == "succeeded", pause=0.2)
    assert worker.poll() is None
    assert read_job(sessions, job_id).attempt == 3
    wait_for(lambda: not list(settings.staging_dir.iterdir()))


@everywhere
@pytest.mark.usefixtures("dispatcher")
def test_emptied_broker_loses_nothing(
    start_worker: StartWorker, broker: Celery, sessions: sessionmaker[Session], settings: Settings, job_id: str
) -> None:
    with broker.connection_for_write() as connection:
        connection.default_channel.queue_purge(settings.queue_name)
    start_worker()
    assert_succeeded_once(sessions, job_id, settings, attempts=1)


@everywhere
@pytest.mark.usefixtures("dispatcher")
def test_a_worker_told_to_stop_hands_its_job_back_in_time(
    start_worker: StartWorker, sessions: sessionmaker[Session], settings: Settings, job_id: str
) -> None:
    worker = start_worker()
    wait_for(lambda: read_job(sessions, job_id).progress > 0.1)
    worker.terminate()
    worker.wait(10)
    job = read_job(sessions, job_id)
    assert (job.state, job.workers_lost) == ("queued", 0)
    assert list(settings.staging_dir.glob("*/*.safetensors"))
    start_worker()
    wait_for(lambda: read_job(sessions, job_id).state == "succeeded", pause=0.2)
    assert read_job(sessions, job_id).attempt == 2


@pytest.mark.parametrize(("database_url", "broker"), INSTALLATIONS[:1], indirect=True)
@pytest.mark.parametrize(("processes", "by"), [(1, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_worker_hands_its_job_back_where_all_its_processes_are_told_to_stop(
    start_worker: StartWorker,
    sessions: sessionmaker[Session],
    settings: Settings,
    job_id: str,
    processes: int,
    by: signal.Signals,
) -> None:
    """As systemd and supervisord do it, and a terminal where Ctrl+C is pressed."""
    settings.processes = processes
    settings.lease_seconds = 60
    worker = start_worker()
    wait_for(lambda: read_job(sessions, job_id).progress > 0.1)
    os.killpg(worker.pid, by)
    worker.wait(10)
    job = read_job(sessions, job_id)
    assert (job.state, job.workers_lost) == ("queued", 0)


@everywhere
def test_a_job_ends_with_its_worker(
    start_worker: StartWorker, sessions: sessionmaker[Session], job_id: str
) -> None:
    """Where only the worker's main process is killed, the job's process does not go on as an orphan."""
    worker = start_worker()
    wait_for(lambda: read_job(sessions, job_id).progress > 0.1)
    children = psutil.Process(worker.pid).children(recursive=True)
    worker.kill()
    worker.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    assert read_job(sessions, job_id).state == "running"
