"""`eggs beat` as an operator runs it: what recurs is done without the API."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine
from app.main import create_app
from app.queue import waiting_messages
from app.settings import Settings
from tests.app.build import make_job, make_webhook
from tests.app.receiver import Receiver, receiver
from tests.conftest import wait_for

__all__ = ["receiver"]

RECURS = {"dispatcher", "sweeper", "courier-0"}


@pytest.fixture
def beat(settings: Settings, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    settings.dispatch_interval_seconds = 0.2
    settings.webhook_allow_private = True
    with (tmp_path / "beat.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "from app.cli.main import main; main()", "beat"],
            env=os.environ | settings.environment(),
            stdout=log,
            stderr=log,
        )
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_what_recurs_is_done_without_the_api(
    broker: Celery,
    settings: Settings,
    beat: subprocess.Popen[bytes],
    sessions: sessionmaker[Session],
    receiver: Receiver,
    tmp_path: Path,
) -> None:
    leftover = settings.files_dir / ".file_01jv3k0s9e6x7q2m4n8p5r1t0w"
    leftover.mkdir(parents=True)
    make_webhook(sessions, settings, receiver.url)
    with TestClient(create_app(settings.model_copy(update={"beat": False}))):
        assert not RECURS & {thread.name for thread in threading.enumerate()}
        job_id = make_job(sessions)  # and no message
    assert wait_for(lambda: waiting_messages(broker)) == 1
    assert job_id in wait_for(lambda: receiver.received)[0].body.decode()
    wait_for(lambda: not leftover.exists())
    beat.send_signal(signal.SIGTERM)
    assert beat.wait(15) == 0
    said = (tmp_path / "beat.log").read_text()
    assert "Traceback" not in said
    assert "ERROR" not in said


def test_the_api_does_it_where_nobody_else_does(settings: Settings) -> None:
    assert settings.beat
    with TestClient(create_app(settings)):
        assert {thread.name for thread in threading.enumerate()} > RECURS
    assert not RECURS & {thread.name for thread in threading.enumerate()}


def test_it_starts_on_an_empty_database(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "new")
    with subprocess.Popen(
        [sys.executable, "-c", "from app.cli.main import main; main()", "beat", "--json"],
        env=os.environ | settings.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline()) == {"status": "started"}
        process.send_signal(signal.SIGINT)
        assert process.stdout.read() == ""
        assert "Traceback" not in process.stderr.read()
        assert process.wait(15) == 0
    with make_engine(settings.database_url).connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobs")) == 0
