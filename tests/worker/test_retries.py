"""Faults that may pass: the job waits, and goes on from what it has done; what will not pass fails."""

import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy.orm import Session, sessionmaker

from app.db import make_engine, make_sessions, utcnow
from app.jobs import leases, service
from app.jobs.models import Job
from app.migrate import upgrade
from app.settings import Settings
from eggs_core import hub
from eggs_core.errors import Cancelled, HubUnavailable, ModelNotFound
from tests.app.build import events_of, make_job, read_job
from tests.conftest import wait_for
from tests.tiny_models import MakeModel
from tests.worker.conftest import fill
from tests.worker.test_databases import Postgres, postgres
from tests.worker.test_runner import sums_of
from worker.runner import run_job, run_next

__all__ = ["postgres"]

SHORT = {"samples": 2, "sequence_length": 32}


def before_event(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], Any]) -> None:
    """Does something once in the middle of a job, before its progress is recorded for the so-manieth time."""
    record = leases.record_progress
    count = 0

    def record_and_do(session: Session, lease: leases.Lease, **progress: Any) -> None:
        nonlocal count
        count += 1
        if count == number:
            do()
        record(session, lease, **progress)

    monkeypatch.setattr(leases, "record_progress", record_and_do)


def pauses_of(sessions: sessionmaker[Session], job_id: str) -> list[str]:
    events = [event for event in events_of(sessions, job_id) if event.data.get("error")]
    return [event.message.rpartition(" in ")[2] for event in events if event.type == "job.queued"]


def on_disk(folder: Path, settings: Settings, make_model: MakeModel) -> tuple[Settings, dict[str, Any]]:
    """Those of a service that keeps its files there; and a request for a model of many small blocks."""
    model = make_model("llama", num_hidden_layers=40)
    changes = {"data_dir": folder, "model_roots": [model.parent], "disk_reserve_bytes": 0}
    request = {"model": str(model), "calibration": SHORT, "evaluation": None, "output": {"format": "dense"}}
    return settings.model_copy(update=changes), request


def test_a_disk_that_runs_full_in_the_middle(
    settings: Settings,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The job waits, keeps its shards, and once there is room goes on to the same bytes as undisturbed."""
    settings, request = on_disk(small_disk, settings, make_model)
    undisturbed, job_id = make_job(sessions, **request), make_job(sessions, **request)
    run_job(undisturbed, settings, sessions, Event())

    ballast = small_disk / "ballast"
    before_event(monkeypatch, 20, lambda: fill(ballast))
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.retries, job.workers_lost, job.error) == ("queued", 1, 0, None)
    assert job.retry_at is not None
    assert timedelta(seconds=20) < job.retry_at - utcnow() <= timedelta(seconds=30)
    shards = set(settings.staging_dir.glob("*/*.safetensors"))
    assert 1 < len(shards) < 41
    event = events_of(sessions, job_id)[-1]
    assert event.data["error"]["type"] == "urn:eggs:problem:no-space"
    assert event.message.endswith("the job goes on in 30 seconds.")

    run_next(settings, sessions, Event())
    assert read_job(sessions, job_id).attempt == 1, "it was taken before its pause was over"
    end_pause(sessions, job_id)
    run_next(settings, sessions, Event())  # the disk is as full as before
    assert pauses_of(sessions, job_id) == ["30 seconds.", "60 seconds."]

    ballast.unlink()
    end_pause(sessions, job_id)
    written = {shard.name: shard.stat().st_mtime_ns for shard in settings.staging_dir.glob("*/*.safetensors")}
    assert {shard.name for shard in shards} == set(written)
    del written["model-00001-of-00041.safetensors"]  # what lies outside the blocks is copied each time
    run_next(settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.retry_at) == ("succeeded", 3, None)
    assert sums_of(sessions, job_id) == sums_of(sessions, undisturbed)
    kept = {name: (settings.artifacts_dir / str(job.artifacts_dir) / name).stat().st_mtime_ns for name in written}
    assert kept == written, "a finished block was pruned again"


def test_a_disk_that_goes_read_only_in_the_middle(
    settings: Settings,
    sessions: sessionmaker[Session],
    make_model: MakeModel,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a kernel makes it after an error. A worker would else fail one waiting job after the other."""

    def remount(how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", str(small_disk)], check=True)

    settings, request = on_disk(small_disk, settings, make_model)
    job_id = make_job(sessions, **request)
    before_event(monkeypatch, 20, lambda: remount("ro"))
    run_job(job_id, settings, sessions, Event())
    shards = {shard.name for shard in settings.staging_dir.glob("*/*.safetensors")}
    assert 1 < len(shards) < 41
    end_pause(sessions, job_id)
    run_next(settings, sessions, Event())  # what was left cannot even be taken over
    job = read_job(sessions, job_id)
    assert (job.state, job.retries, job.workers_lost) == ("queued", 2, 0)
    assert events_of(sessions, job_id)[-1].data["error"]["type"] == "urn:eggs:problem:disk-unavailable"

    remount("rw")
    assert {shard.name for shard in settings.staging_dir.glob("*/*.safetensors")} == shards
    end_pause(sessions, job_id)
    run_next(settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt) == ("succeeded", 3)
    assert not list(settings.staging_dir.iterdir())


def end_pause(sessions: sessionmaker[Session], job_id: str) -> None:
    with sessions.begin() as session:
        session.get_one(Job, job_id).retry_at = utcnow()


def test_a_fault_that_does_not_pass_fails_after_all(
    settings: Settings, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub stays away: so many tries, with growing pauses, and then the problem itself."""
    settings = settings.model_copy(update={"max_retries": 2, "allow_hub": True})

    def away(*_: object) -> None:
        raise HubUnavailable("The Hugging Face Hub could not be reached for org/model. Try again later.")

    monkeypatch.setattr(hub, "model_folder", away)
    job_id = make_job(sessions, model="org/model")
    for attempt in (1, 2, 3):
        end_pause(sessions, job_id)
        run_next(settings, sessions, Event())
        assert read_job(sessions, job_id).attempt == attempt
    job = read_job(sessions, job_id)
    assert (job.state, job.retries) == ("failed", 2)
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:hub-unavailable"
    assert pauses_of(sessions, job_id) == ["30 seconds.", "60 seconds."]
    assert not list(settings.staging_dir.glob("*"))


def test_the_users_mistake_is_not_tried_again(
    settings: Settings, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise ModelNotFound("The Hugging Face Hub has no org/model, or no such revision. Check its name.")

    monkeypatch.setattr(hub, "model_folder", unknown)
    job_id = make_job(sessions, model="org/model")
    run_job(job_id, settings.model_copy(update={"allow_hub": True}), sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.retries) == ("failed", 1, 0)


def test_a_job_that_waits_for_another_try_can_be_cancelled(
    settings: Settings, sessions: sessionmaker[Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise HubUnavailable("away")

    monkeypatch.setattr(hub, "model_folder", away)
    job_id = make_job(sessions, model="org/model")
    run_job(job_id, settings.model_copy(update={"allow_hub": True}), sessions, Event())
    assert read_job(sessions, job_id).state == "queued"
    with sessions() as session:
        assert leases.reoffer_candidates(session, 10) == []
    with sessions.begin() as session:
        service.cancel(session, "default", job_id)
    assert read_job(sessions, job_id).state == "cancelled"


@pytest.mark.parametrize(
    ("error", "state"),
    [(ModelNotFound("No."), "failed"), (HubUnavailable("Later."), "queued"), (Cancelled(), "cancelled")],
)
def test_postgresql_is_away_when_an_attempt_ends(
    error: Exception,
    state: str,
    postgres: Postgres,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The worker waits with what it has to say, and no lease runs out for it."""
    settings = Settings(data_dir=tmp_path, database_url=postgres.url)
    engine = make_engine(postgres.url)
    upgrade(engine)
    sessions = make_sessions(engine)
    job_id = make_job(sessions, model="org/model")

    def stop_and_raise(*_: object) -> None:
        postgres.stop()
        raise error

    monkeypatch.setattr(hub, "model_folder", stop_and_raise)
    worker = Thread(target=run_job, args=(job_id, settings, sessions, Event()))
    worker.start()
    try:
        wait_for(lambda: "is not recorded yet" in caplog.text)
    finally:
        postgres.start()
    worker.join()
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt, job.workers_lost) == (state, 1, 0)
    engine.dispose()
