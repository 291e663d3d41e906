"""Leases: of many workers one wins, a lost job comes back, and an attempt that was overtaken changes nothing."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from datetime import datetime, timedelta, tzinfo
from multiprocessing import get_context
from threading import Barrier
from typing import Self

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import repository as artifacts_repository
from app.db import make_engine, make_sessions, utcnow
from app.jobs import leases, repository, service
from app.jobs.leases import Heartbeat, Lease, LeaseLost, NewArtifact
from app.jobs.models import JobState
from tests.app.build import events_of, make_job, read_job

Sessions = sessionmaker[Session]


def claim(sessions: Sessions, job_id: str, lease_seconds: float = 60, max_attempts: int = 3) -> Lease | None:
    with sessions.begin() as session:
        return leases.claim(session, job_id, lease_seconds, max_attempts=max_attempts, most_running=None)


def must_claim(sessions: Sessions, job_id: str, lease_seconds: float = 60) -> Lease:
    lease = claim(sessions, job_id, lease_seconds)
    assert lease is not None
    return lease


def cancel(sessions: Sessions, job_id: str) -> None:
    with sessions.begin() as session:
        service.cancel(session, "default", job_id)


def progress(sessions: Sessions, lease: Lease, fraction: float) -> None:
    with sessions.begin() as session:
        leases.record_progress(
            session, lease, progress=fraction, stage="prune", message="block", data={"block": 1}
        )


def test_of_twenty_workers_one_wins(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    start = Barrier(20)

    def worker(_: int) -> Lease | None:
        start.wait()
        return claim(sessions, job_id)

    with ThreadPoolExecutor(20) as pool:
        won = [lease for lease in pool.map(worker, range(20)) if lease is not None]
    assert len(won) == 1
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.lease_token) == (JobState.RUNNING, 1, won[0].token)
    assert [event.type for event in events_of(sessions, job_id)] == ["job.queued", "job.running"]


def test_of_twenty_workers_one_takes_over_a_lost_job(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    first = must_claim(sessions, job_id, lease_seconds=-1)
    start = Barrier(20)

    def worker(_: int) -> Lease | None:
        start.wait()
        return claim(sessions, job_id)

    with ThreadPoolExecutor(20) as pool:
        won = [lease for lease in pool.map(worker, range(20)) if lease is not None]
    assert [lease.attempt for lease in won] == [2]
    assert won[0].token != first.token


def test_a_claim_carries_the_request(sessions: Sessions) -> None:
    job_id = make_job(sessions, pattern="4:8", method="wanda")
    lease = must_claim(sessions, job_id)
    assert (str(lease.spec.pattern), lease.spec.method, lease.job_id) == ("4:8", "wanda", job_id)


def test_a_job_whose_request_no_longer_holds_fails(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    with sessions.begin() as session:
        job = repository.get(session, job_id)
        assert job is not None
        job.spec = {**job.spec, "sparsity": 0.5}  # as a version with another field might have stored it
    assert claim(sessions, job_id) is None
    job = read_job(sessions, job_id)
    assert (job.state, job.lease_token) == (JobState.FAILED, None)
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:request-outdated"
    with sessions() as session:
        assert leases.reoffer_candidates(session, 10) == []


def test_nothing_to_claim(sessions: Sessions) -> None:
    assert claim(sessions, "job_unknown") is None
    job_id = make_job(sessions)
    must_claim(sessions, job_id)
    assert claim(sessions, job_id) is None


def test_started_at_is_that_of_the_first_attempt(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    must_claim(sessions, job_id, lease_seconds=-1)
    started = read_job(sessions, job_id).started_at
    must_claim(sessions, job_id)
    assert read_job(sessions, job_id).started_at == started
    assert started is not None


def test_heartbeat_extends_the_lease(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id, lease_seconds=-1)
    with sessions.begin() as session:
        assert leases.heartbeat(session, lease, 60) is Heartbeat.OK
    assert claim(sessions, job_id) is None
    expires_at = read_job(sessions, job_id).lease_expires_at
    assert expires_at is not None
    assert timedelta(seconds=50) < expires_at - utcnow() <= timedelta(seconds=60)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_host_whose_clock_is_wrong_loses_no_job_and_takes_none(
    minutes: int, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wrong:
        wrong.setattr("app.db.datetime", clock_off_by(timedelta(minutes=minutes)))
        its = make_job(sessions)
        lease = must_claim(sessions, its)
    other = make_job(sessions)
    must_claim(sessions, other)
    assert claim(sessions, its) is None
    lost = make_job(sessions)
    must_claim(sessions, lost, lease_seconds=-1)
    with monkeypatch.context() as wrong:
        wrong.setattr("app.db.datetime", clock_off_by(timedelta(minutes=minutes)))
        assert claim(sessions, other) is None
        with sessions.begin() as session:
            assert leases.heartbeat(session, lease, 60) is Heartbeat.OK
            assert leases.next_job(session, most_running=None) == lost
            leases.retry(session, lease, {"title": "A fault"}, first_pause=timedelta(0), max_retries=1)
    assert claim(sessions, its) is not None, "it waits for no longer than it should"


def clock_off_by(error: timedelta) -> type[datetime]:
    """A host's clock."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + error

    return Clock


def test_heartbeat_tells_of_a_cancellation_and_of_a_loss(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    first = must_claim(sessions, job_id, lease_seconds=-1)
    second = must_claim(sessions, job_id)
    cancel(sessions, job_id)
    with sessions.begin() as session:
        assert leases.heartbeat(session, first, 60) is Heartbeat.LOST
        assert leases.heartbeat(session, second, 60) is Heartbeat.CANCEL_REQUESTED
        leases.confirm_cancelled(session, second)
        assert leases.heartbeat(session, second, 60) is Heartbeat.LOST
    assert [event.type for event in events_of(sessions, job_id)] == [
        "job.queued",
        "job.running",
        "job.running",
        "job.cancel_requested",
        "job.cancelled",
    ]


def test_progress_never_falls_not_even_in_a_second_attempt(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    first = must_claim(sessions, job_id, lease_seconds=-1)
    progress(sessions, first, 0.5)
    progress(sessions, first, 0.4)
    second = must_claim(sessions, job_id)
    for fraction in (0.1, 0.6, 7.0):
        progress(sessions, second, fraction)
    seen = [event.progress for event in events_of(sessions, job_id)]
    assert seen == [0.0, 0.0, 0.5, 0.5, 0.5, 0.5, 0.6, 1.0]


def test_progress_is_an_event_with_stage_message_and_data(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    progress(sessions, must_claim(sessions, job_id), 0.25)
    event = events_of(sessions, job_id)[-1]
    assert (event.type, event.progress, event.stage, event.message, event.data) == (
        "job.progress",
        0.25,
        "prune",
        "block",
        {"block": 1},
    )
    job = read_job(sessions, job_id)
    assert (job.progress, job.stage) == (0.25, "prune")


def test_an_overtaken_attempt_changes_nothing(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    old = must_claim(sessions, job_id, lease_seconds=-1)
    must_claim(sessions, job_id)
    before = len(events_of(sessions, job_id))
    with pytest.raises(LeaseLost):
        progress(sessions, old, 0.9)
    with pytest.raises(LeaseLost), sessions.begin() as session:
        leases.succeed(session, old, report={}, artifacts=[NewArtifact("a", 1, "0" * 64)], artifacts_dir="x")
    with pytest.raises(LeaseLost), sessions.begin() as session:
        leases.fail(session, old, {"title": "no"})
    with pytest.raises(LeaseLost), sessions.begin() as session:
        leases.confirm_cancelled(session, old)
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.progress) == (JobState.RUNNING, 2, 0.0)
    assert len(events_of(sessions, job_id)) == before
    with sessions() as session:
        assert artifacts_repository.of_job(session, job_id) == []


def test_success_publishes_report_and_artifacts_in_one_step(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    files = [NewArtifact("model.safetensors", 2**40, "a" * 64), NewArtifact("report.json", 2, "b" * 64)]
    with sessions.begin() as session:
        leases.succeed(session, lease, report={"schema_version": 1}, artifacts=files, artifacts_dir=f"{job_id}.1")
    with sessions() as session:
        job = repository.get_in_project(session, "default", job_id, with_report=True)
        assert job is not None
        assert (job.state, job.progress, job.stage, job.lease_token) == (JobState.SUCCEEDED, 1.0, None, None)
        assert (job.report, job.artifacts_dir) == ({"schema_version": 1}, f"{job_id}.1")
        assert job.finished_at is not None
        found = artifacts_repository.of_job(session, job_id)
        assert [(a.name, a.bytes) for a in found] == [("model.safetensors", 2**40), ("report.json", 2)]
    assert claim(sessions, job_id) is None
    with pytest.raises(LeaseLost), sessions.begin() as session:
        leases.fail(session, lease, {"title": "too late"})


def test_a_success_that_cannot_be_stored_leaves_the_job_running(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    twice = [NewArtifact("a", 1, "a" * 64)] * 2
    with pytest.raises(Exception, match=r"(?i)unique"), sessions.begin() as session:
        leases.succeed(session, lease, report={}, artifacts=twice, artifacts_dir="x")
    assert read_job(sessions, job_id).state is JobState.RUNNING
    assert events_of(sessions, job_id)[-1].type == "job.running"


def test_failure_keeps_the_problem(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        leases.fail(session, lease, {"title": "Too little text", "detail": "3 of 32 windows"})
    job = read_job(sessions, job_id)
    assert (job.state, job.error) == (JobState.FAILED, {"title": "Too little text", "detail": "3 of 32 windows"})
    assert events_of(sessions, job_id)[-1].message == "3 of 32 windows"


def test_a_lost_job_that_was_cancelled_is_not_started_again(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    cancel(sessions, job_id)
    with sessions.begin() as session:
        leases.heartbeat(session, lease, -1)
    assert claim(sessions, job_id) is None
    assert read_job(sessions, job_id).state is JobState.CANCELLED


def test_a_job_that_costs_every_worker_fails(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for _ in range(3):
        must_claim(sessions, job_id, lease_seconds=-1)
    assert claim(sessions, job_id) is None
    job = read_job(sessions, job_id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:worker-lost"
    assert job.attempt == 3


def test_sequence_numbers_have_no_gaps_under_concurrent_writers(sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda step: progress(sessions, lease, step / 40), range(40)))
    events = events_of(sessions, job_id)
    assert [event.sequence for event in events] == list(range(1, 43))
    fractions = [event.progress for event in events]
    assert fractions == sorted(fractions)


def _work(database_url: str) -> list[str]:
    """What one process does: makes jobs, takes them, and comes further with them."""
    sessions = make_sessions(make_engine(database_url))
    jobs = [make_job(sessions) for _ in range(5)]
    for job_id in jobs:
        lease = must_claim(sessions, job_id)
        for step in range(10):
            progress(sessions, lease, step / 10)
    return jobs


def test_eight_processes_write_at_once(sessions: Sessions, database_url: str) -> None:
    with ProcessPoolExecutor(8, mp_context=get_context("spawn")) as pool:
        made = [job_id for jobs in pool.map(_work, [database_url] * 8) for job_id in jobs]
    assert len(set(made)) == 40
    for job_id in made:
        assert [event.sequence for event in events_of(sessions, job_id)] == list(range(1, 13))
        assert read_job(sessions, job_id).progress == 0.9


def test_candidates_are_queued_or_lost_jobs_oldest_first(sessions: Sessions) -> None:
    queued, lost, healthy, done = (make_job(sessions) for _ in range(4))
    must_claim(sessions, lost, lease_seconds=-1)
    must_claim(sessions, healthy)
    cancel(sessions, done)
    with sessions() as session:
        assert leases.reoffer_candidates(session, 10) == [queued, lost]
        assert leases.reoffer_candidates(session, 1) == [queued]
        assert leases.reoffer_candidates(session, 10, queued_for=timedelta(minutes=1)) == []


@pytest.mark.parametrize("again", ["handed back", "retried"])
def test_a_cancellation_that_comes_while_a_job_is_put_back_is_not_forgotten(
    sessions: Sessions, again: str
) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)

    def put_back() -> None:
        with sessions.begin() as session:
            if again == "handed back":
                leases.hand_back(session, lease)
            else:
                leases.retry(session, lease, {"title": "A fault"}, first_pause=timedelta(0), max_retries=1)

    with ThreadPoolExecutor(1) as pool:
        with sessions.begin() as session:
            service.cancel(session, "default", job_id)
            putting = pool.submit(put_back)
            wait([putting], timeout=1)  # it waits for this transaction
        putting.result()
    assert read_job(sessions, job_id).state is JobState.CANCELLED
