"""One job in this process, on both databases."""

import hashlib
import os
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text, update
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker
from transformers import AutoModelForCausalLM

from app.artifacts import repository as artifacts_repository
from app.db import utcnow
from app.jobs import leases, service
from app.jobs.leases import Lease
from app.jobs.models import Job
from app.settings import Settings
from eggs_core import pipeline
from eggs_core.errors import StoreUnavailable
from tests.app.build import events_of, make_job, read_job
from tests.conftest import files_of, wait_for
from tests.tiny_models import MakeModel
from worker.runner import run_job

SHORT = {"samples": 2, "sequence_length": 32}


@pytest.fixture
def request_body(settings: Settings, make_model: MakeModel) -> dict[str, Any]:
    """A job that takes a moment; its model has many small blocks."""
    (settings.model_roots[0] / "tiny").symlink_to(make_model("llama", num_hidden_layers=40))
    settings.model_roots.append(make_model("llama", num_hidden_layers=40))
    return {
        "model": str(settings.model_roots[0] / "tiny"),
        "min_degree": 2,
        "calibration": SHORT,
        "evaluation": SHORT,
    }


def in_thread(
    job_id: str, settings: Settings, sessions: sessionmaker[Session], stopping: Event | None = None
) -> threading.Thread:
    thread = threading.Thread(target=run_job, args=(job_id, settings, sessions, stopping or Event()))
    thread.start()
    return thread


def sums_of(sessions: sessionmaker[Session], job_id: str) -> dict[str, str]:
    """The checksums of what a job has published, except for the files that hold times and memory."""
    with sessions() as session:
        artifacts = artifacts_repository.of_job(session, job_id)
    return {a.name: a.sha256 for a in artifacts if a.name not in ("report.json", "SHA256SUMS")}


def in_progress(sessions: sessionmaker[Session], job_id: str) -> bool:
    return read_job(sessions, job_id).progress > 0.05


def run_and_cancel(settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]) -> Job:
    """A job that is cancelled once it has got somewhere; as it ended."""
    settings.lease_seconds = 0.3  # so that a beat comes every 0.1 seconds
    job_id = make_job(sessions, **request_body)
    thread = in_thread(job_id, settings, sessions)
    wait_for(lambda: in_progress(sessions, job_id))
    with sessions.begin() as session:
        service.cancel(session, project="default", job_id=job_id)
    thread.join()
    return read_job(sessions, job_id)


def test_a_job_is_pruned_and_published(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())

    job = read_job(sessions, job_id)
    assert (job.state, job.progress, job.error, job.attempt) == ("succeeded", 1.0, None, 1)
    events = events_of(sessions, job_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events if event.type != "job.progress"] == [
        "job.queued",
        "job.running",
        "job.succeeded",
    ]
    steps = [event.progress for event in events if event.type == "job.progress"]
    assert steps == sorted(steps)
    opening, blocks, said, packing, publishing = 1, 3 * 40, 2, 2, 1
    assert len(steps) == opening + blocks + said + packing + publishing, "of every stage every block"

    folder = settings.artifacts_dir / str(job.artifacts_dir)
    with sessions() as session:
        artifacts = {a.name: a for a in artifacts_repository.of_job(session, job_id)}
    assert set(artifacts) == files_of(folder)
    for name, artifact in artifacts.items():
        content = (folder / name).read_bytes()
        assert (artifact.bytes, artifact.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert {"config.json", "report.json", "README.md", "SHA256SUMS", "tokenizer.json"} <= set(artifacts)
    assert not list(settings.staging_dir.iterdir())
    AutoModelForCausalLM.from_pretrained(folder)

    run_job(job_id, settings, sessions, Event())  # a late message
    assert events_of(sessions, job_id)[-1].sequence == events[-1].sequence


@pytest.mark.parametrize(
    ("change", "code", "advice"),
    [
        ({"calibration": {"samples": 2, "sequence_length": 512}}, "sequence-too-long", "at most 128 tokens"),
        ({"calibration": {"samples": 9000, "sequence_length": 128}}, "not-enough-text", "need 1152000"),
        ({"pattern": "5:7"}, "pattern-does-not-fit", "q_proj has 32 input channels"),
        ({"min_degree": 17}, "min-degree-impossible", "at most"),
    ],
)
def test_the_users_mistake_is_told_as_one(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    change: dict[str, Any],
    code: str,
    advice: str,
) -> None:
    job_id = make_job(sessions, **request_body | change)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == (f"urn:eggs:problem:{code}", 422)
    assert advice in job.error["detail"]
    assert not list(settings.staging_dir.glob("*"))


def test_our_fault_is_told_as_ours_and_leaks_nothing(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    settings.staging_dir.write_text("a file where a folder should be")
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == ("urn:eggs:problem:internal-error", 500)
    assert str(settings.data_dir) not in str(job.error)
    assert "Traceback" not in str(job.error)


def test_no_disk_space(settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]) -> None:
    settings.disk_reserve_bytes = 2**60
    settings.max_retries = 0
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == ("urn:eggs:problem:no-space", 507)
    assert "Make room" in job.error["detail"]


def test_cancel_stops_between_blocks(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job = run_and_cancel(settings, sessions, request_body)
    assert (job.state, job.error) == ("cancelled", None)
    assert job.progress < 1
    assert not list(settings.staging_dir.iterdir())
    assert not settings.artifacts_dir.exists()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_job_beyond_its_limit_ends_whatever_follows_its_end(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    """Here the disk is full, when its trackers are to be told."""
    job_id = make_job(sessions)
    settings.job_seconds = 0.1
    program = """
import sys, threading
from app.db import make_engine, make_sessions
from app.jobs import leases
from app.settings import Settings
from worker.heart import Heart

def ended():
    raise OSError(28, "No space left on device")

settings, never = Settings(), threading.Event()
sessions = make_sessions(make_engine(settings.database_url))
with sessions.begin() as session:
    lease = leases.claim(session, sys.argv[1], 60, max_attempts=3, most_running=None)
with Heart(sessions, lease, settings, never, ended, handed_back=ended):
    never.wait()
"""
    command = [sys.executable, "-c", program, job_id]
    subprocess.run(command, env=os.environ | settings.environment(), timeout=60, check=True)
    assert read_job(sessions, job_id).state == "failed"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_trackers_are_told_of_a_job_that_is_handed_back_in_the_middle_of_a_block(
    settings: Settings, sessions: sessionmaker[Session]
) -> None:
    job_id = make_job(sessions)
    program = """
import sys, threading
from app.db import make_engine, make_sessions
from app.jobs import leases
from app.settings import Settings
from worker import heart

heart.GRACE_SECONDS = 0.1
settings, stopping = Settings(), threading.Event()
sessions = make_sessions(make_engine(settings.database_url))
with sessions.begin() as session:
    lease = leases.claim(session, sys.argv[1], 60, max_attempts=3, most_running=None)

def ended():
    print("ended", flush=True)

def handed_back():
    print("handed back", flush=True)

stopping.set()
with heart.Heart(sessions, lease, settings, stopping, ended, handed_back):
    threading.Event().wait()
"""
    command = [sys.executable, "-c", program, job_id]
    environment = os.environ | settings.environment()
    done = subprocess.run(command, env=environment, timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout == "handed back\n"
    assert read_job(sessions, job_id).state == "queued"


def test_an_attempt_that_lost_its_lease_leaves_no_trace(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body)
    thread = in_thread(job_id, settings, sessions)
    wait_for(lambda: in_progress(sessions, job_id))
    later = utcnow().replace(year=utcnow().year + 1)
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_token="another", lease_expires_at=later))
    thread.join()
    job = read_job(sessions, job_id)
    assert (job.state, job.lease_token) == ("running", "another")
    assert not list(settings.staging_dir.iterdir())
    assert not list(settings.artifacts_dir.glob("*/*"))


def test_leftovers_of_a_lost_attempt_are_removed(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any], tmp_path: Path
) -> None:
    job_id = make_job(sessions, **request_body)
    staged = settings.staging_dir / f"{job_id}.attempt-0"
    staged.mkdir(parents=True)
    run_job(job_id, settings, sessions, Event())
    assert read_job(sessions, job_id).state == "succeeded"
    assert not staged.exists()


def test_a_worker_that_stops_hands_its_job_back(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    """Another one goes on where it stopped, to the same bytes as without the stop."""
    request_body |= {"evaluation": None, "output": {"format": "dense"}}
    undisturbed, stopped = make_job(sessions, **request_body), make_job(sessions, **request_body)
    run_job(undisturbed, settings, sessions, Event())
    stopping = Event()
    thread = in_thread(stopped, settings, sessions, stopping)
    wait_for(lambda: read_job(sessions, stopped).stage == "prune")
    stopping.set()
    thread.join()
    job = read_job(sessions, stopped)
    assert (job.state, job.attempt, job.workers_lost, job.lease_token) == ("queued", 1, 0, None)
    assert (job.error, job.finished_at) == (None, None)
    shards = set(settings.staging_dir.glob("*/*.safetensors"))
    assert 1 < len(shards) < 41

    run_job(stopped, settings, sessions, Event())
    job = read_job(sessions, stopped)
    assert (job.state, job.attempt, job.workers_lost) == ("succeeded", 2, 0)
    assert [event.type for event in events_of(sessions, stopped) if event.type != "job.progress"] == [
        "job.queued",
        "job.running",
        "job.queued",
        "job.running",
        "job.succeeded",
    ]
    assert sums_of(sessions, stopped) == sums_of(sessions, undisturbed)
    assert not list(settings.staging_dir.iterdir())


@pytest.mark.parametrize("way", ["hand_back", "retry"])
def test_what_is_done_is_kept_where_a_connection_is_lost_just_after_the_job_was_queued_again(
    way: str,
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commit was made, so that the next try to make it finds the lease gone."""
    job_id = make_job(sessions, **request_body | {"evaluation": None})
    queue_again, record_progress = getattr(leases, way), leases.record_progress
    stopping = Event()
    cut: list[str] = []

    def stop_in_a_block(session: Session, lease: Lease, **progress: Any) -> None:
        record_progress(session, lease, **progress)
        if len(list(settings.staging_dir.glob("*/*.safetensors"))) > 1:
            if way == "retry":
                raise StoreUnavailable("The store does not answer.")
            stopping.set()

    def lose_the_word(session: Session, *arguments: Any, **options: Any) -> Any:
        def lose(_: Session) -> None:
            if not cut:
                cut.append(way)
                raise OperationalError("COMMIT", None, Exception("the connection was lost"))

        event.listen(session, "after_commit", lose)
        return queue_again(session, *arguments, **options)

    monkeypatch.setattr(leases, "record_progress", stop_in_a_block)
    monkeypatch.setattr(leases, way, lose_the_word)
    run_job(job_id, settings, sessions, stopping)
    assert cut == [way]
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.lease_token) == ("queued", 1, None)
    assert len(list(settings.staging_dir.glob("*/*.safetensors"))) > 1


def test_a_job_that_is_to_be_cancelled_is_not_handed_back(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    job_id = make_job(sessions, **request_body)
    stopping = Event()
    thread = in_thread(job_id, settings, sessions, stopping)
    wait_for(lambda: in_progress(sessions, job_id))
    with sessions.begin() as session:
        service.cancel(session, project="default", job_id=job_id)
    stopping.set()
    thread.join()
    assert read_job(sessions, job_id).state == "cancelled"


def test_what_was_begun_with_another_version_is_begun_anew(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job_id = make_job(sessions, **request_body | {"evaluation": None, "output": {"format": "dense"}})
    stopping = Event()
    thread = in_thread(job_id, settings, sessions, stopping)
    wait_for(lambda: read_job(sessions, job_id).stage == "prune")
    stopping.set()
    thread.join()
    monkeypatch.setattr(pipeline, "versions", lambda: {"torch": "another"})
    run_job(job_id, settings, sessions, Event())
    assert (read_job(sessions, job_id).state, read_job(sessions, job_id).attempt) == ("succeeded", 2)


def test_leftovers_of_a_job_that_ended_are_removed(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any]
) -> None:
    """The attempts are used up: nobody starts the job again, so nobody would overwrite them."""
    job_id = make_job(sessions, **request_body)
    staged = settings.staging_dir / f"{job_id}.attempt-3"
    staged.mkdir(parents=True)
    long_ago = utcnow() - timedelta(hours=1)
    lost = {
        "state": "running",
        "attempt": 3,
        "workers_lost": 2,
        "lease_token": "lost",
        "lease_expires_at": long_ago,
    }
    with sessions.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(**lost))
    run_job(job_id, settings, sessions, Event())
    assert read_job(sessions, job_id).state == "failed"
    assert not staged.exists()


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_an_outage_of_the_database_costs_no_work(
    settings: Settings,
    sessions: sessionmaker[Session],
    request_body: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Connections are cut and refused for a while in the middle of a job; the same attempt goes on."""
    url = make_url(settings.database_url)
    server = create_engine(url.set(database="postgres"), isolation_level="AUTOCOMMIT")
    job_id = make_job(sessions, **request_body)
    thread = in_thread(job_id, settings, sessions)
    wait_for(lambda: in_progress(sessions, job_id))
    with server.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS false"))
        try:
            cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
            connection.execute(cut, {"name": url.database})
            wait_for(lambda: "could not be recorded" in caplog.text)
        finally:
            connection.execute(text(f"ALTER DATABASE {url.database} ALLOW_CONNECTIONS true"))
    server.dispose()
    thread.join()
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)


@pytest.mark.parametrize(("limit", "verdict"), [(1e9, "accepted"), (1e-9, "rejected")])
def test_a_verdict_is_told_wherever_the_job_is(
    settings: Settings, sessions: sessionmaker[Session], request_body: dict[str, Any], limit: float, verdict: str
) -> None:
    request_body |= {"accept_if": {"perplexity_ratio": limit}, "output": {"format": "dense"}}
    job_id = make_job(sessions, **request_body)
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.verdict) == ("succeeded", verdict)
    assert events_of(sessions, job_id)[-1].data == {"verdict": verdict}
    with sessions() as session:
        report = service.report(session, "default", job_id)
    assert report["acceptance"]["verdict"] == verdict
    assert [check["limit"] for check in report["acceptance"]["checks"]] == [limit]
