"""Jobs that nobody has come for are offered again, without flooding the queue."""

from datetime import timedelta

import pytest
from celery import Celery
from fastapi.testclient import TestClient
from kombu import Exchange, Queue
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app.dispatcher import Dispatcher, dispatch
from app.jobs.models import Job
from app.keys.models import ApiKey
from app.main import create_app
from app.queue import make_celery, ring, waiting_messages
from app.settings import Settings
from tests.app.build import make_job, read_job
from tests.app.test_leases import must_claim
from tests.conftest import wait_for

Sessions = sessionmaker[Session]
AT_ONCE = timedelta()


def drain(celery: Celery, settings: Settings) -> list[str]:
    """Takes every message out of the queue: the ids they carry."""
    with celery.connection_for_read() as connection:
        queue = Queue(settings.queue_name, Exchange(settings.queue_name), channel=connection.default_channel)
        messages = iter(lambda: queue.get(no_ack=True, accept=["json"]), None)
        return [message.payload[0][0] for message in messages]


def test_a_job_whose_message_was_lost_is_offered_again(sessions: Sessions, settings: Settings) -> None:
    celery = make_celery(settings)
    job_id = make_job(sessions)
    assert dispatch(sessions, celery, AT_ONCE) == [job_id]
    assert drain(celery, settings) == [job_id]


def test_a_lost_job_is_offered_again_and_a_healthy_one_is_not(sessions: Sessions, settings: Settings) -> None:
    celery = make_celery(settings)
    lost, healthy = make_job(sessions), make_job(sessions)
    must_claim(sessions, lost, lease_seconds=-1)
    must_claim(sessions, healthy)
    assert dispatch(sessions, celery, AT_ONCE) == [lost]


def test_a_fresh_job_has_a_message_of_its_own_under_way(sessions: Sessions, settings: Settings) -> None:
    make_job(sessions)
    assert dispatch(sessions, make_celery(settings), timedelta(minutes=1)) == []


def test_the_queue_never_grows_beyond_the_number_of_jobs(sessions: Sessions, settings: Settings) -> None:
    celery = make_celery(settings)
    jobs = [make_job(sessions) for _ in range(5)]
    ring(celery, jobs[4])
    assert dispatch(sessions, celery, AT_ONCE) == jobs[:4]
    for _ in range(3):
        assert dispatch(sessions, celery, AT_ONCE) == []
    assert waiting_messages(celery) == 5


def test_jobs_that_their_keys_limit_keeps_waiting_are_not_offered(sessions: Sessions, settings: Settings) -> None:
    celery = make_celery(settings)
    jobs = [make_job(sessions) for _ in range(5)]
    key_id = read_job(sessions, jobs[0]).key_id
    with sessions.begin() as session:
        session.execute(update(Job).values(key_id=key_id))
    must_claim(sessions, jobs[0])
    assert dispatch(sessions, celery, AT_ONCE, most_running=1) == []
    assert dispatch(sessions, celery, AT_ONCE, most_running=3) == jobs[1:3]
    drain(celery, settings)
    must_claim(sessions, jobs[1], lease_seconds=-1)
    assert dispatch(sessions, celery, AT_ONCE, most_running=1) == [jobs[1]], "its worker was lost"
    drain(celery, settings)
    with sessions.begin() as session:
        session.get_one(ApiKey, key_id).max_running_jobs = 3
    assert dispatch(sessions, celery, AT_ONCE) == jobs[1:3]


def test_a_broker_that_is_down_ends_the_round(sessions: Sessions, settings: Settings) -> None:
    make_job(sessions)
    down = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    assert dispatch(sessions, make_celery(down), AT_ONCE) == []


def test_rounds_go_on_until_stopped(sessions: Sessions, settings: Settings) -> None:
    celery = make_celery(settings)
    dispatcher = Dispatcher(sessions, celery, interval=0.01)
    dispatcher.start()
    job_id = make_job(sessions)
    wait_for(lambda: waiting_messages(celery))
    assert drain(celery, settings) == [job_id]
    wait_for(lambda: waiting_messages(celery))  # it is still queued, so it is offered once more
    dispatcher.stop()
    drain(celery, settings)
    assert waiting_messages(celery) == 0


def test_the_rounds_survive_what_nobody_foresaw(
    sessions: Sessions, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    celery = make_celery(settings)
    transport = celery.conf.broker_transport
    celery.conf.broker_transport = "no-such-transport"
    dispatcher = Dispatcher(sessions, celery, interval=0.01)
    dispatcher.start()
    wait_for(lambda: "could not finish a round" in caplog.text)
    celery.conf.broker_transport = transport
    make_job(sessions)
    wait_for(lambda: waiting_messages(celery))
    dispatcher.stop()


def test_the_rounds_wait_for_no_writer(sessions: Sessions, settings: Settings) -> None:
    job_id = make_job(sessions)
    app = create_app(settings.model_copy(update={"dispatch_interval_seconds": 0.01}))
    with sessions.begin() as writer:
        assert writer.get(Job, job_id)
        with TestClient(app):
            wait_for(lambda: waiting_messages(make_celery(settings)), seconds=25)  # a lock is waited for 30
