"""The end of a sweep: stored, and told of to webhooks, once, whichever way its last job ends."""

import json
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from threading import Barrier, Event
from typing import Any

import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from sqlalchemy import event, update
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts.store import open_store
from app.db import make_engine, make_sessions, utcnow
from app.jobs import leases
from app.jobs.leases import Lease
from app.jobs.models import Job, JobEventType, JobState
from app.settings import Settings
from app.sweeper import sweep as sweep_round
from app.sweeps import comparison, service
from app.sweeps.schemas import SweepCreate, SweepResource
from app.webhooks.models import WebhookEventType
from app.webhooks.schemas import DeliveryResource
from tests.app.build import make_job, make_webhook, principal_of, read_job
from tests.app.receiver import Receiver
from tests.app.test_leases import cancel, claim, must_claim, progress
from tests.app.test_sweeps import succeed
from tests.app.test_webhook_delivery import log, sending, waits_for_a_lock
from tests.conftest import wait_for

Sessions = sessionmaker[Session]

NOWHERE = "http://127.0.0.1:1/"
PROBLEM = {"title": "no"}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    settings.webhook_allow_private = True
    return settings


@pytest.fixture
def listening(sessions: Sessions, settings: Settings) -> None:
    """A webhook of the project that is told of sweeps alone, and one of another project."""
    make_webhook(sessions, settings, NOWHERE, events=["sweep.completed"])
    make_webhook(sessions, settings, NOWHERE, events=["sweep.completed"], project="another")


def make_sweep(sessions: Sessions, settings: Settings, jobs: int = 2) -> tuple[str, list[str]]:
    """A new sweep and its jobs."""
    body = SweepCreate.model_validate(
        {"model": "smollm2-135m-instruct", "trials": [{"calibration": {"seed": seed}} for seed in range(jobs)]}
    )
    principal = principal_of(sessions)
    with sessions.begin() as session:
        sweep, _ = service.submit(session, settings, principal, body, None)
        return sweep.id, [trial["job_id"] for trial in sweep.trials]


def shown(sessions: Sessions, sweep_id: str) -> SweepResource:
    """As the API shows it."""
    with sessions() as session:
        return comparison.resource(session, service.get(session, "default", sweep_id))


def told(sessions: Sessions) -> list[dict[str, Any]]:
    """What webhooks are to be sent, in the order in which it was written."""
    return [json.loads(delivery.payload) for delivery in log(sessions)]


def fail(sessions: Sessions, lease: Lease) -> None:
    with sessions.begin() as session:
        leases.fail(session, lease, PROBLEM)


def run_asked_to_stop(sessions: Sessions, job_id: str) -> Lease:
    """A job whose worker is asked to stop."""
    lease = must_claim(sessions, job_id)
    cancel(sessions, job_id)
    return lease


def lose_worker(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        session.execute(
            update(Job).where(Job.id == job_id).values(lease_expires_at=utcnow() - timedelta(seconds=1))
        )


def succeeds(sessions: Sessions, job_id: str) -> None:
    succeed(sessions, job_id, 22.0)


def fails(sessions: Sessions, job_id: str) -> None:
    fail(sessions, must_claim(sessions, job_id))


def is_cancelled_by_its_worker(sessions: Sessions, job_id: str) -> None:
    lease = run_asked_to_stop(sessions, job_id)
    with sessions.begin() as session:
        leases.confirm_cancelled(session, lease)


def is_cancelled_as_its_worker_stops(sessions: Sessions, job_id: str) -> None:
    lease = run_asked_to_stop(sessions, job_id)
    with sessions.begin() as session:
        leases.hand_back(session, lease)


def is_cancelled_instead_of_tried_again(sessions: Sessions, job_id: str) -> None:
    lease = run_asked_to_stop(sessions, job_id)
    with sessions.begin() as session:
        assert not leases.retry(session, lease, PROBLEM, first_pause=timedelta(), max_retries=1)


def is_tried_too_often(sessions: Sessions, job_id: str) -> None:
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        assert not leases.retry(session, lease, PROBLEM, first_pause=timedelta(), max_retries=0)


def is_lost_and_cancelled_before(sessions: Sessions, job_id: str) -> None:
    run_asked_to_stop(sessions, job_id)
    lose_worker(sessions, job_id)
    assert claim(sessions, job_id) is None


def is_lost_and_cancelled_after(sessions: Sessions, job_id: str) -> None:
    must_claim(sessions, job_id)
    lose_worker(sessions, job_id)
    cancel(sessions, job_id)


def costs_every_worker(sessions: Sessions, job_id: str) -> None:
    must_claim(sessions, job_id)
    lose_worker(sessions, job_id)
    assert claim(sessions, job_id, max_attempts=1) is None


def holds_no_longer(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(spec={"pattern": "5:4"}))
    assert claim(sessions, job_id) is None


def is_cancelled_with_the_sweep(sessions: Sessions, job_id: str) -> None:
    sweep_id = read_job(sessions, job_id).sweep_id
    assert sweep_id is not None
    principal = principal_of(sessions)
    with sessions.begin() as session:
        answered = comparison.resource(session, service.cancel(session, principal, sweep_id))
    assert answered == shown(sessions, sweep_id)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (succeeds, "succeeded"),
        (fails, "failed"),
        (is_tried_too_often, "failed"),
        (costs_every_worker, "failed"),
        (holds_no_longer, "failed"),
        (cancel, "cancelled"),
        (is_cancelled_by_its_worker, "cancelled"),
        (is_cancelled_as_its_worker_stops, "cancelled"),
        (is_cancelled_instead_of_tried_again, "cancelled"),
        (is_lost_and_cancelled_before, "cancelled"),
        (is_lost_and_cancelled_after, "cancelled"),
        (is_cancelled_with_the_sweep, "cancelled"),
    ],
)
@pytest.mark.usefixtures("listening")
def test_it_ends_however_its_last_job_does(
    end: Callable[[Sessions, str], None], state: str, sessions: Sessions, settings: Settings
) -> None:
    sweep_id, (first, last) = make_sweep(sessions, settings)
    succeeds(sessions, first)
    assert shown(sessions, sweep_id).completed_at is None
    end(sessions, last)
    ended = shown(sessions, sweep_id)
    assert (ended.state, ended.completed_at) == (state, read_job(sessions, last).finished_at)
    data = ended.model_dump(mode="json")
    assert data["jobs"] in ({"succeeded": 2}, {"succeeded": 1, state: 1})
    assert told(sessions) == [{"type": "sweep.completed", "timestamp": data["completed_at"], "data": data}]


@pytest.mark.usefixtures("listening")
def test_a_job_that_waits_again_has_not_ended(sessions: Sessions, settings: Settings) -> None:
    sweep_id, (first, last) = make_sweep(sessions, settings)
    fails(sessions, first)
    lease = must_claim(sessions, last)
    with sessions.begin() as session:
        assert leases.retry(session, lease, PROBLEM, first_pause=timedelta(), max_retries=1)
    lease = must_claim(sessions, last)
    with sessions.begin() as session:
        leases.hand_back(session, lease)
    assert (shown(sessions, sweep_id).completed_at, told(sessions)) == (None, [])


def test_only_an_end_costs_a_look_at_the_sweep(sessions: Sessions, settings: Settings) -> None:
    _, jobs = make_sweep(sessions, settings)
    lease, alone = (must_claim(sessions, job_id) for job_id in (jobs[0], make_job(sessions)))
    looks: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "sweeps" in statement:
            looks.append(statement)

    event.listen(sessions.kw["bind"], "before_cursor_execute", note)
    progress(sessions, lease, 0.5)
    fail(sessions, alone)
    assert looks == []
    fail(sessions, lease)
    assert looks != []


@pytest.mark.usefixtures("listening")
def test_it_ends_once_where_its_last_jobs_end_together(sessions: Sessions, settings: Settings) -> None:
    start = Barrier(3)

    def worker(lease: Lease) -> None:
        start.wait()
        fail(sessions, lease)

    made = []
    with ThreadPoolExecutor(3) as pool:
        for _ in range(20):
            sweep_id, jobs = make_sweep(sessions, settings, jobs=3)
            list(pool.map(worker, [must_claim(sessions, job_id) for job_id in jobs]))
            made.append(sweep_id)
    assert [message["data"]["id"] for message in told(sessions)] == made
    assert [message["data"]["jobs"] for message in told(sessions)] == [{"failed": 3}] * 20
    for sweep_id in made:
        assert shown(sessions, sweep_id).completed_at is not None


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("listening")
def test_of_two_last_ends_the_second_sees_the_first(sessions: Sessions, settings: Settings) -> None:
    """Nothing is left to chance: one is not stored yet when the other one looks."""
    sweep_id, jobs = make_sweep(sessions, settings)
    first, second = (must_claim(sessions, job_id) for job_id in jobs)
    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            leases.fail(session, first, PROBLEM)
            other = pool.submit(fail, sessions, second)
            wait_for(lambda: waits_for_a_lock(sessions) or other.done())
        other.result()
    assert [message["data"]["id"] for message in told(sessions)] == [sweep_id]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.usefixtures("listening")
def test_who_cancels_it_and_whose_job_ends_do_not_wait_for_each_other(
    sessions: Sessions, settings: Settings, database_url: str
) -> None:
    sweep_id, (waiting, running) = make_sweep(sessions, settings)
    lease = must_claim(sessions, running)
    engine = make_engine(database_url)
    has_job = Event()

    def pause(_: Any, __: Any, statement: str, *___: Any) -> None:
        if (
            "FROM sweeps" in statement and "FOR UPDATE" in statement
        ):  # the worker has the job, and not yet the sweep
            has_job.set()
            wait_for(lambda: waits_for_a_lock(sessions))

    event.listen(engine, "before_cursor_execute", pause)
    principal = principal_of(sessions)
    with ThreadPoolExecutor(1) as pool:
        worker = pool.submit(fail, make_sessions(engine), lease)
        assert has_job.wait(60)
        with sessions.begin() as session:
            service.cancel(session, principal, sweep_id)
        worker.result()
    engine.dispose()
    assert [read_job(sessions, job_id).state for job_id in (waiting, running)] == ["cancelled", "failed"]
    assert [message["data"]["id"] for message in told(sessions)] == [sweep_id]


def _end_and_die(database_url: str, lease: Lease) -> None:
    with make_sessions(make_engine(database_url)).begin() as session:
        leases.fail(session, lease, PROBLEM)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.usefixtures("listening")
def test_a_process_that_dies_at_the_end_loses_nothing(
    sessions: Sessions, settings: Settings, database_url: str
) -> None:
    sweep_id, (first, last) = make_sweep(sessions, settings)
    fails(sessions, first)
    lease = must_claim(sessions, last)
    process = get_context("spawn").Process(target=_end_and_die, args=(database_url, lease))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (shown(sessions, sweep_id).completed_at, told(sessions)) == (None, [])
    fail(sessions, lease)
    assert [message["data"]["id"] for message in told(sessions)] == [sweep_id]


@pytest.mark.usefixtures("listening")
def test_an_end_that_the_version_before_has_stored_is_told_of_later(
    sessions: Sessions, settings: Settings
) -> None:
    sweep_id, jobs = make_sweep(sessions, settings)
    running, (ended, _) = make_sweep(sessions, settings)
    done = {"state": JobState.SUCCEEDED, "finished_at": utcnow()}
    with sessions.begin() as session:  # as a worker does that knows of no sweeps
        session.execute(update(Job).where(Job.id.in_([*jobs, ended])).values(done))
    store = open_store(settings)
    for _ in range(2):
        sweep_round(sessions, settings, store)
    assert [message["data"]["id"] for message in told(sessions)] == [sweep_id]
    assert shown(sessions, sweep_id).completed_at == done["finished_at"]
    assert shown(sessions, running).completed_at is None


def test_a_receiver_is_told_of_it_after_the_jobs(
    sessions: Sessions, settings: Settings, receiver: Receiver
) -> None:
    webhook_id, secret = make_webhook(
        sessions, settings, receiver.url, events=["job.succeeded", "sweep.completed"]
    )
    sweep_id, jobs = make_sweep(sessions, settings)
    with sending(settings, sessions):
        for job_id, perplexity in zip(jobs, (30.0, 25.0), strict=True):
            succeed(sessions, job_id, perplexity, verdict="accepted")
        wait_for(lambda: len(receiver.received) == 3)
    messages = [request.verified(secret) for request in receiver.received]
    assert [message["type"] for message in messages] == ["job.succeeded", "job.succeeded", "sweep.completed"]
    data = messages[-1]["data"]
    assert data == shown(sessions, sweep_id).model_dump(mode="json")
    assert (data["state"], data["jobs"], data["best"]) == ("succeeded", {"succeeded": 2}, 1)
    assert [trial["figures"]["verdict"] for trial in data["trials"]] == ["accepted"] * 2
    last = receiver.received[-1]
    told_of = from_http_event(HTTPMessage(last.headers, last.body))
    assert (told_of.get_id(), told_of.get_type()) == (last.id, "sweep.completed")
    assert (told_of.get_source(), told_of.get_subject()) == ("/v1/sweeps", sweep_id)
    logged = DeliveryResource.of(log(sessions)[-1])
    assert (logged.webhook_id, logged.type) == (webhook_id, "sweep.completed")
    assert (logged.sweep_id, logged.job_id, logged.event_id) == (sweep_id, None, None)


def test_a_webhook_can_be_told_of_every_event() -> None:
    assert list(WebhookEventType) == [*JobEventType, "sweep.completed"]
