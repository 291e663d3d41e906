"""What is kept and what is removed, in a folder and in a store that speaks S3."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from app.artifacts import retention
from app.artifacts.models import StoredLocation
from app.artifacts.store import Store, open_store
from app.files import service as files
from app.jobs import leases
from app.jobs.models import Job
from app.main import create_app
from app.settings import Settings
from app.sweeper import sweep
from eggs_client import Eggs
from tests.app.build import make_job, make_key, read_job
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim
from tests.app.test_store import FILES, Finished, finished, small_parts
from tests.conftest import files_of, wait_for
from tests.object_store import Way, bucket, credentials, download, keys_in, object_store, way

__all__ = ["bucket", "credentials", "finished", "object_store", "small_parts", "way"]

Sessions = sessionmaker[Session]
Stored = Callable[[], set[str]]


@pytest.fixture(params=["local", "s3"])
def stored(request: pytest.FixtureRequest, settings: Settings) -> Stored:
    """What each kind of store holds, once the settings name it."""
    if request.param == "local":
        return lambda: files_of(settings.artifacts_dir)
    name = request.getfixturevalue("bucket")
    settings.artifact_store_url = f"s3://{name}"
    return lambda: keys_in(name)


@pytest.fixture
def store(settings: Settings, stored: Stored, small_parts: None) -> Store:
    return open_store(settings)


def publish(
    sessions: Sessions,
    store: Store,
    finished: Finished,
    *,
    lost: str | None = None,
    keep_for: timedelta | None = None,
) -> str:
    """A job that has succeeded; before it did, an attempt that was `lost` had put its files elsewhere."""
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    for location in filter(None, (lost, "kept")):
        with sessions.begin() as session:
            leases.note_location(session, lease, f"{job_id}/{location}")
        store.put(finished.folder, f"{job_id}/{location}", finished.files, lambda: None)
    with sessions.begin() as session:
        leases.succeed(
            session,
            lease,
            report={},
            artifacts=finished.files,
            artifacts_dir=f"{job_id}/kept",
            keep_for=keep_for,
        )
    return job_id


def let_pass(sessions: Sessions, passed: timedelta, *job_ids: str) -> None:
    """As if the jobs had ended so much earlier."""
    for job_id in job_ids:
        job = read_job(sessions, job_id)
        moments = {"finished_at": job.finished_at, "artifacts_expire_at": job.artifacts_expire_at}
        earlier = {name: moment - passed for name, moment in moments.items() if moment is not None}
        with sessions.begin() as session:
            session.execute(update(Job).where(Job.id == job_id).values(**earlier))


def files_at(location: str) -> set[str]:
    return {f"{location}/{name}" for name in FILES}


def test_files_expire(
    settings: Settings, sessions: Sessions, store: Store, stored: Stored, finished: Finished, client: TestClient
) -> None:
    week = timedelta(days=7)
    kept, for_ever = publish(sessions, store, finished, keep_for=week), publish(sessions, store, finished)
    resource = client.get(f"/v1/jobs/{kept}").json()
    assert resource["artifacts_expire_at"] > resource["finished_at"]
    assert client.get(f"/v1/jobs/{for_ever}").json()["artifacts_expire_at"] is None
    everything = files_at(f"{kept}/kept") | files_at(f"{for_ever}/kept")

    let_pass(sessions, week - timedelta(minutes=1), kept, for_ever)
    sweep(sessions, settings, store)
    assert stored() == everything
    url = f"/v1/jobs/{kept}/artifacts/large.bin"
    assert client.get(url, follow_redirects=False).status_code in (200, 307)

    let_pass(sessions, timedelta(minutes=2), kept)
    gone = client.get(url)
    assert (gone.status_code, code(gone)) == (410, "artifact-gone")
    assert "Its time was over" in gone.json()["detail"]
    assert stored() == everything, "the sweeper has not been there yet"
    sweep(sessions, settings, store)
    assert stored() == files_at(f"{for_ever}/kept")
    assert client.get(url).status_code == 410
    listed = client.get(f"/v1/jobs/{kept}/artifacts").json()["data"]
    assert {artifact["name"] for artifact in listed} == set(FILES), "what there was is still told"
    assert client.get(f"/v1/jobs/{kept}/report").status_code == 200
    sweep(sessions, settings, store)


def test_what_lost_attempts_left_is_removed_and_nothing_else(
    settings: Settings, sessions: Sessions, store: Store, stored: Stored, finished: Finished
) -> None:
    ended = publish(sessions, store, finished, lost="lost")
    running = make_job(sessions)
    lease = must_claim(sessions, running)
    with sessions.begin() as session:
        leases.note_location(session, lease, f"{running}/begun")
    store.put(finished.folder, f"{running}/begun", finished.files, lambda: None)
    store.put(finished.folder, "of-the-operator/x", finished.files, lambda: None)
    everything = stored()

    sweep(sessions, settings, store)
    assert stored() == everything, "the lost attempt may still be writing"
    let_pass(sessions, timedelta(hours=2), ended)
    sweep(sessions, settings, store)
    assert stored() == everything - files_at(f"{ended}/lost")

    with sessions.begin() as session:
        leases.fail(session, lease, {"title": "It failed"})
    let_pass(sessions, timedelta(hours=2), running)
    sweep(sessions, settings, store)
    assert stored() == files_at(f"{ended}/kept") | files_at("of-the-operator/x")
    artifact = finished.files[1]
    found = store.find(f"{ended}/kept", artifact)
    content = download(found) if isinstance(found, str) else Path(found).read_bytes()
    assert content == FILES[artifact.name]


def test_nothing_is_forgotten_while_the_store_is_away(
    sessions: Sessions, settings: Settings, bucket: str, way: Way, finished: Finished, small_parts: None
) -> None:
    settings.artifact_store_url = f"s3://{bucket}"
    store = open_store(settings)
    job_id = publish(sessions, store, finished, lost="lost")
    let_pass(sessions, timedelta(hours=2), job_id)
    way.fault = lambda method, path: "503" if method == "DELETE" else None
    retention.remove_unreferenced(sessions, store)
    way.fault = lambda method, path: None
    assert files_at(f"{job_id}/lost") <= keys_in(bucket)
    retention.remove_unreferenced(sessions, store)
    assert keys_in(bucket) == files_at(f"{job_id}/kept")


def left_after_a_round(sessions: Sessions, store: Store) -> set[str]:
    """The locations of lost attempts that are not forgotten."""
    retention.remove_unreferenced(sessions, store)
    lost = select(StoredLocation.location).where(StoredLocation.location.endswith("/lost"))
    with sessions() as session:
        return set(session.scalars(lost))


def test_an_object_that_cannot_be_removed_keeps_no_other(
    sessions: Sessions, settings: Settings, bucket: str, way: Way, finished: Finished, small_parts: None
) -> None:
    settings.artifact_store_url = f"s3://{bucket}"
    store = open_store(settings)
    stuck, *others = (publish(sessions, store, finished, lost="lost") for _ in range(3))
    let_pass(sessions, timedelta(hours=2), stuck, *others)
    way.fault = lambda method, path: "503" if method == "DELETE" and stuck in path else None
    wait_for(lambda: left_after_a_round(sessions, store) == {f"{stuck}/lost"})
    way.fault = lambda method, path: None
    assert left_after_a_round(sessions, store) == set()


def test_a_folder_that_cannot_be_removed_is_not_forgotten(
    sessions: Sessions, settings: Settings, finished: Finished
) -> None:
    store = open_store(settings)
    stuck, *others = (publish(sessions, store, finished, lost="lost") for _ in range(3))
    let_pass(sessions, timedelta(hours=2), stuck, *others)
    folder = settings.artifacts_dir / stuck / "lost"
    shutil.rmtree(folder)
    folder.write_text("not a folder")
    wait_for(lambda: left_after_a_round(sessions, store) == {f"{stuck}/lost"})
    folder.unlink()
    assert left_after_a_round(sessions, store) == set()


def test_staged_files_of_ended_jobs_are_removed(settings: Settings, sessions: Sessions) -> None:
    """But not of those that trackers may still be reading the files of."""
    waiting, ended, just_ended = (make_job(sessions) for _ in range(3))
    for job_id in (ended, just_ended):
        with sessions.begin() as session:
            leases.fail(session, must_claim(sessions, job_id), {"title": "It failed"})
    let_pass(sessions, timedelta(hours=2), ended)
    names = {f"{job_id}.attempt-1" for job_id in (waiting, ended, just_ended)}
    names |= {"job_of-another-installation.attempt-1", "notes"}
    for name in names:
        (settings.staging_dir / name).mkdir(parents=True)
    with_sweeper = TestClient(create_app(settings))
    with with_sweeper:
        wait_for(lambda: {path.name for path in settings.staging_dir.iterdir()} == names - {f"{ended}.attempt-1"})


def test_a_download_leads_to_the_store_and_needs_no_key_there(
    settings: Settings, sessions: Sessions, bucket: str, finished: Finished, small_parts: None
) -> None:
    settings.artifact_store_url = f"s3://{bucket}/eggs"
    job_id = publish(sessions, open_store(settings), finished)
    with TestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {make_key(sessions)[1]}"
        answer = client.get(f"/v1/jobs/{job_id}/artifacts/sub dir/ä.txt", follow_redirects=False)
        assert (answer.status_code, answer.content) == (307, b"")
        assert answer.headers["cache-control"] == "no-store"
        assert download(answer.headers["location"]) == FILES["sub dir/ä.txt"]
        head = client.head(f"/v1/jobs/{job_id}/artifacts/sub dir/ä.txt", follow_redirects=False)
        assert (head.status_code, head.headers["content-length"]) == (200, str(len(FILES["sub dir/ä.txt"])))
        assert client.get(f"/v1/jobs/{job_id}/artifacts/secret", follow_redirects=False).status_code == 404
        client.headers["Authorization"] = f"Bearer {make_key(sessions, 'another')[1]}"
        assert client.get(f"/v1/jobs/{job_id}/artifacts/empty", follow_redirects=False).status_code == 404


def test_the_client_goes_on_with_a_download_at_the_store(
    settings: Settings,
    sessions: Sessions,
    bucket: str,
    way: Way,
    finished: Finished,
    small_parts: None,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    settings.artifact_store_url = f"s3://{bucket}"
    job_id = publish(sessions, open_store(settings), finished)
    server: RunningServer = request.getfixturevalue("server")
    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "large.bin.part").write_bytes(FILES["large.bin"][:1_000_000])
    with Eggs(server.url, server.key) as client:
        for artifact in client.jobs.artifacts(job_id):
            steps: list[int] = []
            client.jobs.download_artifact(artifact, folder, on_bytes=steps.append)
            assert artifact.name != "large.bin" or min(steps) > 1_000_000, "it was begun anew"
    assert {name: (folder / name).read_bytes() for name in files_of(folder)} == FILES


def test_a_part_of_a_round_that_fails_keeps_no_other_from_it(
    settings: Settings, sessions: Sessions, finished: Finished, small_parts: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(settings)
    job_id = publish(sessions, store, finished, keep_for=timedelta(0))

    def fails(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(files, "sweep", fails)
    sweep(sessions, settings, store)
    assert read_job(sessions, job_id).artifacts_dir is None
