"""The stores of published files: a folder, and a real server that speaks S3, on a way to it with faults."""

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
from pydantic import ValidationError

from app.artifacts import s3
from app.artifacts.local import LocalStore
from app.artifacts.s3 import S3Store
from app.artifacts.store import Store, open_store
from app.jobs.leases import NewArtifact
from app.settings import EmbeddedSettings
from eggs_core import s3 as client
from eggs_core.errors import StoreUnavailable
from tests.conftest import files_of
from tests.object_store import (
    Fault,
    ObjectStore,
    Way,
    bucket,
    credentials,
    download,
    is_part,
    keys_in,
    object_store,
    way,
)

__all__ = ["bucket", "credentials", "object_store", "way"]

PART = 5 * 2**20  # the least that S3 takes
LARGE = random.Random(0).randbytes(4 * PART + 1)
FILES = {"large.bin": LARGE, "sub dir/ä.txt": "ä".encode() * 100, "empty": b""}


@dataclass
class Finished:
    folder: Path
    files: Sequence[NewArtifact]


@pytest.fixture
def finished(tmp_path: Path) -> Finished:
    """What a job has made; one file is not for publication."""
    folder = tmp_path / "staging"
    for name, content in (FILES | {"secret": b"secret"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    files = [NewArtifact(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in FILES.items()]
    return Finished(folder, files)


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, small_parts: None) -> Store:
    if request.param == "local":
        return LocalStore(tmp_path / "artifacts")
    return S3Store(f"s3://{request.getfixturevalue('bucket')}/eggs")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART_BYTES", PART)


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    with TemporaryDirectory(dir="/dev/shm") as folder:
        assert Path(folder).stat().st_dev != tmp_path.stat().st_dev
        yield Path(folder)


def read(store: Store, location: str, file: NewArtifact) -> bytes:
    found = store.find(location, file)
    return download(found) if isinstance(found, str) else found.read_bytes()


def go_on() -> None:
    pass


class Interrupted(Exception):
    pass


def after(calls: int) -> Callable[[], None]:
    """A check that stops what asks it for the so-manieth time."""
    count = 0

    def check() -> None:
        nonlocal count
        count += 1
        if count == calls:
            raise Interrupted

    return check


def test_what_a_killed_attempt_left_in_a_folder_is_gone_with_the_next(finished: Finished, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "artifacts")
    left = store.root / "job_1" / ".incoming-x" / "whole" / "large.bin"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"a part of it")
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert files_of(store.root) == {f"job_1/a/{name}" for name in FILES}


@pytest.mark.parametrize("why", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK])
def test_files_are_copied_where_they_cannot_be_linked(
    why: int, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(why, os.strerror(why))

    monkeypatch.setattr(os, "link", fail)
    store = LocalStore(tmp_path / "artifacts")
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert all(read(store, "job_1/a", file) == FILES[file.name] for file in finished.files)


def test_what_is_put_is_found_until_it_is_removed(store: Store, finished: Finished) -> None:
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    store.put(finished.folder, "job_1/ab", finished.files[1:], go_on)
    store.put(finished.folder, "job_1/a", finished.files, go_on)  # again: nothing happens
    for file in finished.files:
        assert read(store, "job_1/a", file) == FILES[file.name]
        for start, length in ((0, 10), (5, 3), (len(FILES[file.name]) - 1, 100), (0, 0)):
            if FILES[file.name]:
                assert store.read("job_1/a", file, start, length) == FILES[file.name][start : start + length]
        with pytest.raises(FileNotFoundError):
            store.read("job_1/nothing", file, 0, 1)
    assert (finished.folder / "large.bin").is_file(), "what was put stays where it was"
    store.remove("job_1/a")
    store.remove("job_1/a")
    assert read(store, "job_1/ab", finished.files[1]) == FILES["sub dir/ä.txt"]


def test_an_interrupted_put_is_gone_on_with(store: Store, finished: Finished) -> None:
    for calls in (2, 3):
        with pytest.raises(Interrupted):
            store.put(finished.folder, "job_1/a", finished.files, after(calls))
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    for file in finished.files:
        assert read(store, "job_1/a", file) == FILES[file.name]


def test_a_folder_has_all_files_or_none(tmp_path: Path, finished: Finished) -> None:
    store = LocalStore(tmp_path / "artifacts")
    with pytest.raises(Interrupted):
        store.put(finished.folder, "job_1/a", finished.files, after(3))
    assert not (store.root / "job_1/a").exists()
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert not (store.root / "job_1/a/secret").exists()
    assert (store.root / "job_1/a/large.bin").samefile(finished.folder / "large.bin"), "it was copied"
    store.remove("job_1/a")
    assert not list(store.root.iterdir())


def test_a_folder_on_another_disk(tmp_path: Path, finished: Finished, other_disk: Path) -> None:
    store = LocalStore(other_disk)
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert (other_disk / "job_1/a/large.bin").read_bytes() == LARGE


def test_a_url_names_the_store(tmp_path: Path, credentials: None) -> None:
    def opened(url: str | None) -> Store:
        return open_store(EmbeddedSettings(data_dir=tmp_path, artifact_store_url=url))

    for url, root in ((None, tmp_path / "artifacts"), ("file:///a%20b/c", Path("/a b/c"))):
        store = opened(url)
        assert isinstance(store, LocalStore)
        assert store.root == root
    assert isinstance(opened("s3://bucket/prefix"), S3Store)
    for wrong in ("s3:/bucket", "http://bucket", "file://host/path", "artifacts"):
        with pytest.raises(ValidationError, match="neither file:///PATH nor s3://"):
            opened(wrong)


@pytest.mark.usefixtures("small_parts")
def test_parts_that_are_there_are_not_sent_again(way: Way, bucket: str, finished: Finished) -> None:
    store = S3Store(f"s3://{bucket}")
    with pytest.raises(Interrupted):
        store.put(finished.folder, "job_1/a", finished.files, after(4))
    assert keys_in(bucket) == {"unfinished job_1/a/large.bin"}
    sent = way.parts()
    assert 1 <= sent < 5
    S3Store(f"s3://{bucket}").put(finished.folder, "job_1/a", finished.files, go_on)
    assert way.parts() == 5
    assert keys_in(bucket) == {f"job_1/a/{name}" for name in FILES}
    assert read(store, "job_1/a", finished.files[0]) == LARGE


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("fault", ["500", "503", "cut", "late"])
def test_faults_in_the_middle_of_an_upload(
    way: Way, bucket: str, finished: Finished, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    """Every request meets it when it is sent for the first time."""
    monkeypatch.setattr(client, "_READ_SECONDS", 1)
    way.fault = lambda method, path: fault if way.sent.count((method, path)) == 1 else None
    store = S3Store(f"s3://{bucket}")
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    way.fault = lambda method, path: None
    assert way.parts() >= 10
    for file in finished.files:
        assert read(store, "job_1/a", file) == FILES[file.name]
    # Where an answer came late, an upload was begun twice.
    assert {key for key in keys_in(bucket) if "unfinished" not in key} == {f"job_1/a/{name}" for name in FILES}
    store.remove("job_1/a")
    assert not keys_in(bucket)


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_is_damaged_on_its_way(way: Way, bucket: str, finished: Finished) -> None:
    way.fault = lambda method, path: "damage" if is_part(method, path) and "partNumber=3" in path else None
    store = S3Store(f"s3://{bucket}")
    with pytest.raises(StoreUnavailable):
        store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert keys_in(bucket) == {"unfinished job_1/a/large.bin"}
    way.fault = lambda method, path: None
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    assert read(store, "job_1/a", finished.files[0]) == LARGE


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("name", ["large.bin", "sub dir/ä.txt"])
def test_a_file_that_changed_after_it_was_finished(bucket: str, finished: Finished, name: str) -> None:
    content = bytearray(FILES[name])
    content[-1] ^= 1
    (finished.folder / name).write_bytes(content)
    with pytest.raises(StoreUnavailable, match="has changed since"):
        S3Store(f"s3://{bucket}").put(finished.folder, "job_1/a", finished.files, go_on)
    assert f"job_1/a/{name}" not in keys_in(bucket)


@pytest.mark.usefixtures("small_parts")
def test_removing_takes_half_an_upload_and_leaves_others(bucket: str, finished: Finished) -> None:
    ours, theirs = S3Store(f"s3://{bucket}/ours"), S3Store(f"s3://{bucket}/theirs")
    theirs.put(finished.folder, "job_1/a", finished.files[1:2], go_on)
    with pytest.raises(Interrupted):
        ours.put(finished.folder, "job_1/a", finished.files, after(4))
    ours.remove("job_1/a")
    assert keys_in(bucket) == {"theirs/job_1/a/sub dir/ä.txt"}


def test_a_read_that_gets_no_answer_is_given_up_soon(
    way: Way, bucket: str, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_READ_SECONDS", 1)
    store = S3Store(f"s3://{bucket}")
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    way.sent.clear()
    way.fault = lambda method, path: "late"
    with pytest.raises(StoreUnavailable, match="could not be used for reading"):
        store.read("job_1/a", finished.files[0], 0, 1)
    assert len(way.sent) == 2


def test_a_store_that_is_not_there(object_store: ObjectStore, finished: Finished) -> None:
    with pytest.raises(StoreUnavailable, match="could not be used for publishing"):
        S3Store("s3://no-such-bucket").put(finished.folder, "job_1/a", finished.files, go_on)


@pytest.mark.usefixtures("small_parts")
def test_urls_are_for_one_file_and_signed(
    object_store: ObjectStore, way: Way, bucket: str, finished: Finished
) -> None:
    store = S3Store(f"s3://{bucket}", object_store.url)
    store.put(finished.folder, "job_1/a", finished.files, go_on)
    file = finished.files[1]
    url = store.find("job_1/a", file)
    assert url.startswith(object_store.url), "where users reach it"
    answer = httpx.get(url, timeout=60)
    assert (answer.status_code, answer.content) == (200, FILES[file.name])
    assert answer.headers["content-disposition"] == "attachment; filename*=utf-8''%C3%A4.txt"
    assert httpx.get(url.partition("?")[0], timeout=60).status_code == 403
    assert httpx.get(url.replace("%C3%A4.txt?", "b.txt?"), timeout=60).status_code == 403
    part = httpx.get(store.find("job_1/a", finished.files[0]), headers={"Range": "bytes=7-16"}, timeout=60)
    assert (part.status_code, part.content) == (206, LARGE[7:17])
