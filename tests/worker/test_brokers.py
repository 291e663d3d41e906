"""Brokers that forget, repeat, disorder and go away: no job is lost, and none is run twice."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.dispatcher import Dispatcher
from app.jobs.models import JobState
from app.queue import make_celery, ring
from app.settings import Settings
from tests.app.build import events_of, make_job, read_job
from tests.conftest import free_port, wait_for
from tests.tiny_models import MakeModel

JOBS = 50
SHORT = {
    "method": "magnitude",
    "calibration": {"samples": 1, "sequence_length": 16},
    "evaluation": None,
    "output": {"format": "dense"},
}
# A worker whose jobs run in its one process, which loads torch once; a broker that takes what is not acknowledged
# within a second for lost gives it to another one.
WORKER = """
from app.settings import get_settings
from worker.app import make_worker
from worker.presence import Presence
celery = make_worker(get_settings(), Presence(get_settings()))
celery.conf.broker_transport_options = {**celery.conf.broker_transport_options, "visibility_timeout": 1}
celery.worker_main(["worker", "--pool=solo", "--without-gossip", "--without-mingle", "--loglevel=INFO"])
"""

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Broker:
    """A server of the test's own, which can be stopped and started again. Fails where it is not installed."""

    def __init__(self, url: str, command: list[str], environment: dict[str, str], log: Path) -> None:
        self.url = url
        self._command, self._environment, self._log = command, os.environ | environment, log

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._answers, pause=0.2)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(30)

    def kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()
        try:
            with Connection(self.url, connect_timeout=1) as connection:
                connection.ensure_connection(max_retries=1, timeout=1)
                return True
        except (OSError, OperationalError):
            return False


def redis(folder: Path) -> Broker:
    port = free_port()
    options = {"port": str(port), "bind": "127.0.0.1", "save": "", "dir": str(folder)}
    command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]
    return Broker(f"redis://127.0.0.1:{port}/0", command, {}, folder / "redis.log")


def rabbitmq(folder: Path) -> Broker:
    port = free_port()
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n")
    environment = {
        "RABBITMQ_NODENAME": f"eggs-{port}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),  # the machine's own settings
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "HOME": str(folder),  # where the cookie of this node is
    }
    command = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]  # not the one in the path, which changes the user
    return Broker(f"amqp://guest:guest@127.0.0.1:{port}//", command, environment, folder / "rabbitmq.log")


@pytest.fixture(params=[redis, rabbitmq], ids=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Broker]:
    make: Callable[[Path], Broker] = request.param
    broker = make(tmp_path)
    broker.start()
    settings.broker_url = broker.url
    settings.lease_seconds = 5
    yield broker
    broker.kill()


@pytest.fixture
def workers(broker: Broker, settings: Settings, tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Starts two workers, and kills them at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        environment = os.environ | settings.environment() | {"OMP_NUM_THREADS": "1"}
        for number in range(2):
            with (tmp_path / f"worker-{number}.log").open("wb") as log:
                started.append(
                    subprocess.Popen([sys.executable, "-c", WORKER], env=environment, stdout=log, stderr=log)
                )

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


@pytest.mark.timeout(600)
def test_no_job_is_lost_and_none_is_run_twice(
    broker: Broker,
    workers: Callable[[], None],
    settings: Settings,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
) -> None:
    short, long = make_model("llama", num_hidden_layers=1), make_model("llama", num_hidden_layers=40)
    settings.model_roots = [short.parent, long.parent]
    celery = make_celery(settings)
    jobs = [make_job(sessions, model=str(short), **SHORT) for _ in range(JOBS - 1)]
    jobs.append(make_job(sessions, model=str(long), **SHORT | {"method": "eggs"}))
    messages = jobs * 2
    random.Random(0).shuffle(messages)

    assert all(ring(celery, job_id) for job_id in jobs)
    with celery.connection_for_write() as connection:
        connection.default_channel.queue_purge(settings.queue_name)
    dispatcher = Dispatcher(sessions, celery, interval=0.5)
    dispatcher.start()
    try:
        workers()
        assert all(ring(celery, job_id) for job_id in messages)

        def done() -> int:
            return sum(read_job(sessions, job_id).state is JobState.SUCCEEDED for job_id in jobs)

        wait_for(lambda: done() >= 10, seconds=120, pause=0.2)
        broker.stop()
        before = done()
        assert before < JOBS
        broker.start()
        wait_for(lambda: done() == JOBS, seconds=240, pause=0.2)
    finally:
        dispatcher.stop()
    for job_id in jobs:
        types = [event.type for event in events_of(sessions, job_id) if event.type != "job.progress"]
        assert types == ["job.queued", "job.running", "job.succeeded"]
        assert read_job(sessions, job_id).attempt == 1
