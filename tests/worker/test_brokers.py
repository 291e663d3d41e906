"""Brokers that forget, repeat, disorder and go away: no job is lost, and none is run twice."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from app.dispatcher import Dispatcher
from app.jobs.models import JobState
from app.queue import make_celery, ring, waiting_messages
from app.settings import Settings
from tests.app.build import events_of, make_job, read_job
from tests.conftest import free_port, wait_for
from tests.tiny_models import MakeModel

JOBS = 100  # more than are done before both workers have met a broker that is away, on a busy machine too
SHORT = {
    "method": "magnitude",
    "calibration": {"samples": 1, "sequence_length": 16},
    "evaluation": None,
    "output": {"format": "dense"},
}
# An operator's worker, but that its jobs share a process, which loads torch once. Redis gives what is not
# acknowledged within a second to another one; RabbitMQ's settings, below, have it do so too.
WORKER = """
from app.settings import get_settings
from worker.__main__ import ARGUMENTS
from worker.app import make_worker
from worker.presence import Presence
celery = make_worker(get_settings(), Presence(get_settings()))
redis = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
celery.conf.broker_transport_options = {**celery.conf.broker_transport_options, **redis}
celery.worker_main([*ARGUMENTS, "--max-tasks-per-child=1000"])
"""

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Broker:
    """A server of the test's own, which can be stopped and started again. Fails where it is not installed.

    `empty` takes all messages from a channel's queue of a name.
    """

    def __init__(
        self,
        url: str,
        command: list[str],
        environment: dict[str, str],
        log: Path,
        empty: Callable[[Any, str], object],
    ) -> None:
        self.url, self.empty = url, empty
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
    return Broker(f"redis://127.0.0.1:{port}/0", command, {}, folder / "redis.log", flush)


def flush(channel: Any, _: str) -> None:
    channel.client.flushall()


def purge(channel: Any, queue: str) -> None:
    channel.queue_purge(queue)


def rabbitmq(folder: Path) -> Broker:
    port = free_port()
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\nconsumer_timeout = 1000\n")
    # How often it looks for what is not acknowledged in time, in milliseconds.
    (folder / "advanced.config").write_text("[{rabbit, [{channel_tick_interval, 500}]}].\n")
    environment = {
        "RABBITMQ_NODENAME": f"eggs-{port}@localhost",
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),  # the machine's own settings
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder),
        "RABBITMQ_LOG_BASE": str(folder),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "HOME": str(folder),  # where the cookie of this node is
    }
    command = ["/usr/lib/rabbitmq/bin/rabbitmq-server"]  # not the one in the path, which changes the user
    return Broker(f"amqp://guest:guest@127.0.0.1:{port}//", command, environment, folder / "rabbitmq.log", purge)


@pytest.fixture(params=[redis, rabbitmq], ids=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Iterator[Broker]:
    make: Callable[[Path], Broker] = request.param
    broker = make(tmp_path)
    broker.start()
    settings.broker_url = broker.url
    settings.lease_seconds = 5
    yield broker
    broker.kill()


Start = Callable[[], list[subprocess.Popen[bytes]]]


@pytest.fixture
def start_workers(broker: Broker, settings: Settings, tmp_path: Path) -> Iterator[Start]:
    """Starts two workers, and kills them at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> list[subprocess.Popen[bytes]]:
        environment = os.environ | settings.environment() | {"OMP_NUM_THREADS": "1"}
        for number in range(2):
            with (tmp_path / f"worker-{number}.log").open("wb") as log:
                command = [sys.executable, "-c", WORKER]
                started.append(
                    subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
                )
        return started

    yield start
    for worker in started:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


@pytest.mark.timeout(600)
def test_no_job_is_lost_and_none_is_run_twice(
    broker: Broker,
    start_workers: Start,
    settings: Settings,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    tmp_path: Path,
) -> None:
    short, long = make_model("llama", num_hidden_layers=1), make_model("llama", num_hidden_layers=40)
    settings.model_roots = [short.parent, long.parent]
    celery = make_celery(settings)
    jobs = [make_job(sessions, model=str(long), **SHORT | {"method": "eggs"})]
    jobs.extend(make_job(sessions, model=str(short), **SHORT) for _ in range(JOBS - 1))
    messages = jobs * 2
    random.Random(0).shuffle(messages)

    assert all(ring(celery, job_id) for job_id in jobs)
    with celery.connection_for_write() as connection:
        broker.empty(connection.default_channel, settings.queue_name)
    assert waiting_messages(celery) == 0
    dispatcher = Dispatcher(sessions, celery, interval=0.5)
    dispatcher.start()
    try:
        workers = start_workers()

        def done() -> int:
            return sum(read_job(sessions, job_id).state is JobState.SUCCEEDED for job_id in jobs)

        def logs() -> list[str]:
            return [(tmp_path / f"worker-{number}.log").read_text() for number in range(2)]

        def brought_again() -> bool:
            received = re.findall(r"Task eggs\.prune\[(.+)\] received", "".join(logs()))
            return len(set(received)) < len(received)

        def losses() -> list[int]:
            """How often each worker has met a broker that is away, be it only to say that a job begins."""
            return [len(re.findall(r"Couldn't ack|Connection to broker lost", log)) for log in logs()]

        wait_for(lambda: done() >= 5, seconds=120, pause=0.2)  # for which nobody but the dispatcher has rung
        assert all(ring(celery, job_id) for job_id in messages)
        wait_for(lambda: done() >= 10 and brought_again(), seconds=120, pause=0.2)
        before = losses()
        broker.stop()
        wait_for(lambda: all(now > then for now, then in zip(losses(), before, strict=True)), pause=0.2)
        assert done() < JOBS
        broker.start()
        wait_for(lambda: done() == JOBS, seconds=240, pause=0.2)
    finally:
        dispatcher.stop()
    for job_id in jobs:
        types = [event.type for event in events_of(sessions, job_id) if event.type != "job.progress"]
        assert types == ["job.queued", "job.running", "job.succeeded"]
        assert read_job(sessions, job_id).attempt == 1
    assert [worker.poll() for worker in workers] == [None, None]


@pytest.mark.timeout(120)
def test_rabbitmq_that_is_short_of_memory_is_not_waited_for(settings: Settings, tmp_path: Path) -> None:
    """It takes connections then, and reads nothing of what is published on them."""
    broker = rabbitmq(tmp_path)
    with (tmp_path / "rabbitmq.conf").open("a") as conf:
        conf.write("vm_memory_high_watermark.absolute = 1MB\n")
    broker.start()
    settings.broker_url = broker.url
    try:
        ring(make_celery(settings), "job_1")
    finally:
        broker.kill()
