"""The doorbell on each broker: it rings once, and one that is down delays nobody."""

import os
import socketserver
import threading
import time
import uuid
from pathlib import Path
from typing import ClassVar

import pytest
from kombu import Exchange, Queue

from app.queue import TASK_NAME, make_celery, ring, waiting_messages
from app.settings import Settings

BROKERS = {
    "files": "filesystem://",
    "redis": os.environ.get("EGGS_TEST_REDIS_URL", "redis://127.0.0.1:6379/0"),
    "rabbitmq": os.environ.get("EGGS_TEST_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//"),
}


@pytest.fixture(params=BROKERS)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path, broker_url=BROKERS[request.param], queue_name=f"test-{uuid.uuid4().hex}")


def test_a_ring_arrives_with_the_job_id_alone(settings: Settings) -> None:
    celery = make_celery(settings)
    assert waiting_messages(celery) == 0
    assert ring(celery, "job_1")
    assert ring(celery, "job_2")
    assert waiting_messages(celery) == 2
    with celery.connection_for_read() as connection:
        queue = Queue(settings.queue_name, Exchange(settings.queue_name), channel=connection.default_channel)
        for job_id in ("job_1", "job_2"):
            message = queue.get(no_ack=True, accept=["json"])
            args, kwargs, _ = message.payload
            assert (message.headers["task"], args, kwargs) == (TASK_NAME, [job_id], {})
        queue.delete()
        queue.exchange.delete()
        if settings.broker_url.startswith("redis"):  # kombu leaves its table of bindings behind
            client = connection.default_channel.client
            client.delete(*client.keys(f"_kombu.*{settings.queue_name}*"))
    assert waiting_messages(celery) == 0


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1/0", "amqp://guest:guest@127.0.0.1:1//"])
def test_a_broker_that_is_down_delays_nobody(url: str, tmp_path: Path) -> None:
    celery = make_celery(Settings(data_dir=tmp_path, broker_url=url))
    started = time.monotonic()
    assert not ring(celery, "job_1")
    assert waiting_messages(celery) is None
    assert time.monotonic() - started < 5


class FailingRedis(socketserver.ThreadingTCPServer):
    """A server that greets as Redis does, and answers any command after that with an error, or by hanging up."""

    daemon_threads = True

    def __init__(self, error: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.error = error
        self.url = f"redis://127.0.0.1:{self.server_address[1]}/0"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Conversation(socketserver.StreamRequestHandler):
    GREETING: ClassVar = {"PING": "+PONG", "HELLO": "%1\r\n+proto\r\n:3", "CLIENT": "+OK", "SELECT": "+OK"}

    def handle(self) -> None:
        assert isinstance(self.server, FailingRedis)
        while parts := self.rfile.readline():
            command, *_ = [self._part() for _ in range(int(parts[1:]))]
            answer = self.GREETING.get(command, self.server.error)
            if answer is None:
                return
            self.wfile.write(f"{answer}\r\n".encode())

    def _part(self) -> str:
        length = int(self.rfile.readline()[1:])
        return self.rfile.read(length + len("\r\n")).decode().strip()


@pytest.mark.parametrize(
    "error",
    [None, "-LOADING Redis is loading", "-READONLY You can't write", "-MISCONF Errors writing to disk"],
    ids=["hangs up", "loading", "read only", "disk full"],
)
def test_a_broker_that_answers_and_then_fails_counts_as_down(error: str | None, tmp_path: Path) -> None:
    with FailingRedis(error) as server:
        celery = make_celery(Settings(data_dir=tmp_path, broker_url=server.url))
        assert not ring(celery, "job_1")
        assert waiting_messages(celery) is None


def test_files_left_by_a_killed_writer_are_no_messages(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    celery = make_celery(settings)
    ring(celery, "job_1")
    half_written = settings.broker_dir / "messages" / "0_x.eggs.msg.part"
    half_written.write_text('{"body": "')
    assert waiting_messages(celery) == 1


def test_the_embedded_queue_stays_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    celery = make_celery(Settings(data_dir=tmp_path / "data"))
    assert ring(celery, "job_1")
    assert list(elsewhere.iterdir()) == []
