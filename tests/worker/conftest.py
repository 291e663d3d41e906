"""A worker as an operator starts it, on each broker; and a disk that is soon full."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import pytest
from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app.dispatcher import Dispatcher
from app.queue import make_celery
from app.settings import Settings
from tests.tiny_models import MakeModel, make_model, tokenizer

__all__ = ["make_model", "tokenizer"]

REDIS_URL = os.environ.get("EGGS_TEST_REDIS_URL", "redis://127.0.0.1:6379/14")
AMQP_URL = os.environ.get("EGGS_TEST_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
BROKERS = {"filesystem": "filesystem://", "redis": REDIS_URL, "rabbitmq": AMQP_URL}


class StartWorker(Protocol):
    def __call__(self, *, preloaded: bool = False) -> subprocess.Popen[bytes]: ...


@pytest.fixture
def broker(request: pytest.FixtureRequest, settings: Settings, make_model: MakeModel) -> Iterator[Celery]:
    """A queue of this test's own on each broker, leases short enough to wait for, and the dispatcher."""
    settings.broker_url = BROKERS[request.param]
    settings.queue_name = f"eggs-test-{uuid.uuid4().hex[:12]}"
    settings.lease_seconds = 2
    settings.model_roots = [make_model("llama", num_hidden_layers=40).parent]
    celery = make_celery(settings)
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)  # a missing broker fails the test, here and now
    yield celery
    with celery.connection_for_write() as connection:
        connection.default_channel.queue_delete(settings.queue_name)


@pytest.fixture
def dispatcher(broker: Celery, sessions: sessionmaker[Session]) -> Iterator[None]:
    dispatcher = Dispatcher(sessions, broker, interval=0.5)
    dispatcher.start()
    yield
    dispatcher.stop()


@pytest.fixture
def start_worker(settings: Settings, tmp_path: Path, broker: Celery) -> Iterator[StartWorker]:
    """Starts `python -m worker` as an operator would; kills what is left at the end.

    One that is `preloaded` imports torch before it forks the processes of jobs, each of which would have to.
    """
    workers: list[subprocess.Popen[bytes]] = []

    def start(*, preloaded: bool = False) -> subprocess.Popen[bytes]:
        program = ["-m", "worker"]
        if preloaded:
            program = ["-c", "import eggs_core.pipeline; from worker.__main__ import main; main()"]
        with (tmp_path / f"worker-{len(workers)}.log").open("wb") as log:
            worker = subprocess.Popen(
                [sys.executable, *program],
                env=os.environ | settings.environment() | {"OMP_NUM_THREADS": "1"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def fill(file: Path) -> None:
    """Leaves no byte free beside the file."""
    with file.open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(1 << 12))
