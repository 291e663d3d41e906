"""The doorbell on each broker: it rings once, and one that is down delays nobody."""

import os
import time
import uuid
from pathlib import Path

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
