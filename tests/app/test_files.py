"""Uploads over HTTP: what is taken, what is refused, and that nothing is left of the latter."""

import fcntl
import gzip
import hashlib
import io
import json
import socket
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pyarrow
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.files import content, endpoints, service
from app.files.incoming import Incoming, lock
from app.files.room import Room
from app.jobs import service as jobs
from app.keys import service as keys
from app.main import create_app
from app.settings import Settings
from eggs_core import model_folder
from tests.app.build import make_key
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code
from tests.conftest import files_of, wait_for

Sessions = sessionmaker[Session]
Members = list[tuple[tarfile.TarInfo, bytes]]

TEXT = "Twelve eggs, ä dozen.\n".encode() * 1000
CONFIG = b'{"model_type": "llama"}'


def safetensors(header: Any = None, data: bytes = bytes(8), length: int | None = None) -> bytes:
    """A file of that form, honest or not."""
    if header is None:
        header = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def plain(name: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    return member, data


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def tar(*members: tuple[tarfile.TarInfo, bytes], zipped: bool = False) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for member, data in members:
            made.addfile(member, io.BytesIO(data))
    # Without the time, which would give tests of the same data different names in different processes.
    return gzip.compress(buffer.getvalue(), mtime=0) if zipped else buffer.getvalue()


MODEL = [plain("config.json", CONFIG), plain("model.safetensors", safetensors())]


@pytest.fixture
def remote(server: RunningServer) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def send(client: httpx.Client, name: str, data: bytes, **fields: str) -> httpx.Response:
    return client.post("/v1/files", files={"file": (name, data)}, data=fields)


def uploaded(client: httpx.Client, name: str, data: bytes) -> dict[str, Any]:
    response = send(client, name, data)
    assert response.status_code == 201, response.text
    file: dict[str, Any] = response.json()
    return file


def nothing_is_left(client: httpx.Client, settings: Settings) -> None:
    assert client.get("/v1/files").json()["data"] == []
    assert not settings.files_dir.exists() or list(settings.files_dir.iterdir()) == []


def parquet(tmp_path: Path) -> bytes:
    path = tmp_path / "made.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["An egg.", "Another."]}), path)
    return path.read_bytes()


def test_a_file_of_each_type(remote: httpx.Client, settings: Settings, tmp_path: Path) -> None:
    sent = [
        ("notes.txt", TEXT, "text", "text/plain"),
        ("NOTES.JSONL", b'{"text": "An egg."}\n\n{"text": "Another."}', "jsonl", "application/jsonl"),
        ("a.b.parquet", parquet(tmp_path), "parquet", "application/vnd.apache.parquet"),
        ("model.tar", tar(*MODEL), "model", "application/x-tar"),
        ("model.tar.gz", tar(*MODEL, zipped=True), "model", "application/gzip"),
        ("C:\\models\\käse.tgz", tar(*MODEL, zipped=True), "model", "application/gzip"),
    ]
    files = []
    for name, data, type, media_type in sent:
        digest = hashlib.sha256(data).hexdigest()
        response = send(remote, name, data, sha256=digest.upper())
        assert response.status_code == 201, response.text
        file = response.json()
        files.append(file)
        assert file["name"] == name.rpartition("\\")[2]
        assert (file["type"], file["bytes"], file["sha256"]) == (type, len(data), digest)
        assert remote.get(response.headers["location"]).json() == file
        got = remote.get(file["url"])
        assert got.content == data
        assert got.headers["content-type"].partition(";")[0] == media_type
        assert got.headers["etag"] == f'"{digest}"'
        assert "attachment" in got.headers["content-disposition"]
    listed = remote.get("/v1/files", params={"limit": 4}).json()
    assert listed["data"] == files[:1:-1]
    assert listed["has_more"]
    rest = remote.get("/v1/files", params={"after": listed["last_id"]}).json()
    assert (rest["data"], rest["has_more"]) == (files[1::-1], False)
    assert sorted(path.name for path in settings.files_dir.iterdir()) == [file["id"] for file in files]


def test_a_download_in_parts(remote: httpx.Client) -> None:
    file = uploaded(remote, "notes.txt", TEXT)
    part = remote.get(file["url"], headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, TEXT[10:20])
    assert remote.get(file["url"], headers={"If-None-Match": f'"{file["sha256"]}"'}).status_code == 304
    beyond = remote.get(file["url"], headers={"Range": "bytes=99999999-"})
    assert (beyond.status_code, code(beyond)) == (416, "range-not-satisfiable")
    assert remote.head(file["url"]).headers["content-length"] == str(len(TEXT))


def test_another_checksum_is_refused(remote: httpx.Client, settings: Settings) -> None:
    response = send(remote, "notes.txt", TEXT, sha256="0" * 64)
    assert (response.status_code, code(response)) == (422, "checksum-mismatch")
    assert response.json()["sha256"] == hashlib.sha256(TEXT).hexdigest()
    nothing_is_left(remote, settings)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.pdf", b"%PDF", "does not end"),
        (".txt/", b"a", "empty"),
        ("x" * 300 + ".txt", b"a", "too long"),
        ("a.txt", b"", "is empty"),
        ("a.txt", b"caf\xe9", "not UTF-8"),
        ("a.txt", "ä".encode()[:1], "not UTF-8"),
        ("a.jsonl", b'{"a": 1}\n{"a": ', "Line 2 is not JSON"),
        ("a.jsonl", b'{"a": 1}\n[1]', "Line 2 is no JSON object"),
        ("a.jsonl", b"[" * 100_000, "Line 1 is not JSON"),
        ("a.jsonl", b"\n\n", "no line"),
        ("a.jsonl", b"\xff\xff", "Line 1"),
        ("a.jsonl", b" " * (content.MAX_LINE_BYTES + 1), "Line 1 has more than"),
        ("a.parquet", b"PAR1PAR1", "no Parquet file"),
        ("a.parquet", b"PAR1" + bytes(20) + b"\xff\xff\xff\x7fPAR1", "no Parquet file"),
        ("a.parquet", b"text" * 10, "no Parquet file"),
        ("a.tar", b"no archive at all", "damaged or no tar"),
        ("a.tar.gz", tar(*MODEL, zipped=True)[:60], "damaged or no tar"),
    ],
)
def test_a_file_that_is_not_what_its_name_says(
    name: str, data: bytes, says: str, remote: httpx.Client, settings: Settings
) -> None:
    response = send(remote, name, data)
    assert (response.status_code, code(response)) == (422, "invalid-file")
    assert says in response.json()["detail"]
    nothing_is_left(remote, settings)


def sparse() -> bytes:
    """An archive whose header says that its member is sparse, of a terabyte."""
    member = tarfile.TarInfo("model.safetensors")
    member.pax_headers = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1", "GNU.sparse.name": "a"}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as made:
        made.addfile(member)
    return buffer.getvalue()


def header_of(kind: bytes, size: int) -> bytes:
    """The header of an archive's first member, which claims to be of this size."""
    member = tarfile.TarInfo("model.safetensors")
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    block[124:136] = tarfile.itn(size, 12, tarfile.GNU_FORMAT)
    block[148:156] = b"        "
    block[148:156] = f"{tarfile.calc_chksums(bytes(block))[0]:06o}\0 ".encode()
    return bytes(block)


def _with_shape(shape: list[int]) -> bytes:
    header = {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}
    return tar(MODEL[0], plain("model.safetensors", safetensors(header)))


HUGE = safetensors(length=1 << 40)
INDEX = b'{"weight_map": {"w": "../../secret.safetensors"}}'
OVERLAP = {f"w{i}": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for i in range(2)}
BEYOND = {"w": {"dtype": "F32", "shape": [1 << 38], "data_offsets": [0, 1 << 40]}}


@pytest.mark.parametrize(
    ("made", "problem", "says"),
    [
        (lambda: tar(plain("../config.json", CONFIG), *MODEL), "invalid-file", "outside"),
        (lambda: tar(plain("m/../../config.json", CONFIG), *MODEL), "invalid-file", "outside"),
        (lambda: tar(plain("/tmp/config.json", CONFIG), *MODEL), "invalid-file", "outside"),
        (lambda: tar(special("config.json", tarfile.SYMTYPE, "/etc/passwd"), MODEL[1]), "invalid-file", "link"),
        (lambda: tar(special("x", tarfile.SYMTYPE, ".."), plain("x/config.json"), *MODEL), "invalid-file", "link"),
        (lambda: tar(MODEL[1], special("config.json", tarfile.LNKTYPE, "/etc/passwd")), "invalid-file", "link"),
        (lambda: tar(special("config.json", tarfile.CHRTYPE), MODEL[1]), "invalid-file", "device"),
        (lambda: tar(special("config.json", tarfile.BLKTYPE), MODEL[1]), "invalid-file", "device"),
        (lambda: tar(special("config.json", tarfile.FIFOTYPE), MODEL[1]), "invalid-file", "device"),
        (lambda: tar(MODEL[0], *MODEL), "invalid-file", "twice"),
        (lambda: tar(MODEL[0], plain("config.json/model.safetensors")), "invalid-file", "needs a folder"),
        (lambda: tar(plain("config.json/model.safetensors"), MODEL[0]), "invalid-file", "needs a folder"),
        (lambda: tar(*[plain(f"{i}") for i in range(3000)], zipped=True), "invalid-file", "members"),
        (lambda: tar(plain("model.safetensors", bytes(9 << 20)), zipped=True), "file-too-large", "unpacks"),
        (lambda: tar(plain("skipped", bytes(9 << 20)), *MODEL, zipped=True), "file-too-large", "unpacks"),
        (lambda: header_of(tarfile.REGTYPE, 1 << 50) + bytes(1024), "invalid-file", ""),
        (lambda: gzip.compress(header_of(tarfile.XHDTYPE, 8 << 20) + bytes(8 << 20)), "invalid-file", "header"),
        (lambda: header_of(tarfile.GNUTYPE_LONGNAME, 1 << 40), "invalid-file", "header"),
        (lambda: header_of(tarfile.XHDTYPE, -1024) + bytes(1024), "invalid-file", ""),
        (lambda: header_of(tarfile.REGTYPE, -1024) + bytes(1024), "invalid-file", ""),
        (lambda: tar(plain("m/" * 300 + "config.json"), plain("x" * 300), *MODEL), "invalid-file", "name"),
        (lambda: tar(plain("LICENSE\r\nX: 1"), *MODEL), "invalid-file", "do not print"),
        (lambda: tar(plain("tokenizer\x1b[2K.json"), *MODEL), "invalid-file", "do not print"),
        (lambda: tar(plain("tokenizer.json", bytes(300)), *MODEL), "invalid-file", "300 bytes"),
        (sparse, "invalid-file", ""),
        (lambda: tar(MODEL[0], plain("model.safetensors", HUGE)), "invalid-file", "claims"),
        (lambda: tar(MODEL[0], plain("model.safetensors", b"abc")), "invalid-file", "claims"),
        (lambda: tar(MODEL[0], plain("model.safetensors", safetensors([1]))), "invalid-file", "header cannot"),
        (
            lambda: tar(MODEL[0], plain("model.safetensors", safetensors({"w": 1}))),
            "invalid-file",
            "header cannot",
        ),
        (lambda: tar(MODEL[0], plain("model.safetensors", safetensors(OVERLAP))), "invalid-file", "overlap"),
        (lambda: tar(MODEL[0], plain("model.safetensors", safetensors(BEYOND))), "invalid-file", "do not fill"),
        *(
            (partial(_with_shape, shape), "invalid-file", "does not fit its tensors")
            for shape in ([2**300, 2], [-1, -2], [3])
        ),
        (lambda: tar(MODEL[0], plain("model.safetensors", safetensors({}, b""))), "invalid-file", "no tensor"),
        (
            lambda: tar(*MODEL, *(plain(f"{i}.safetensors", safetensors()) for i in range(2))),
            "invalid-file",
            "more than 2 tensors",
        ),
        (lambda: tar(*MODEL, plain("model.safetensors.index.json", INDEX)), "invalid-file", "lacks"),
        (lambda: tar(*MODEL, plain("model.safetensors.index.json", b"{}")), "invalid-file", "weight_map"),
        (
            lambda: tar(*MODEL, plain("model.safetensors.index.json", b'{"weight_map": {"a": []}}')),
            "invalid-file",
            "lacks",
        ),
        (lambda: tar(MODEL[1]), "invalid-file", "no config.json"),
        (lambda: tar(MODEL[1], plain("config.json", b"[" * 200)), "invalid-file", "not JSON"),
        (lambda: tar(MODEL[0]), "invalid-file", "no safetensors"),
        (lambda: tar(MODEL[0], plain("pytorch_model.bin", b"\x80")), "unsafe-checkpoint", "safe_serialization"),
        (lambda: tar(plain("a/model.safetensors"), plain("b/model.safetensors")), "invalid-file", "more than one"),
    ],
)
def test_an_archive_that_means_harm(
    made: Callable[[], bytes],
    problem: str,
    says: str,
    client: TestClient,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.max_upload_bytes = 8 << 20
    monkeypatch.setattr(model_folder, "MAX_COMPANION_BYTES", 256)
    monkeypatch.setattr(content, "MOST_TENSORS", 2)
    before = files_of(tmp_path)
    response = send(client, "model.tar.gz", made())
    assert (response.status_code, code(response)) == (413 if problem == "file-too-large" else 422, problem)
    assert says in response.json()["detail"]
    nothing_is_left(client, settings)
    assert {name for name in files_of(tmp_path) - before if "sqlite" not in name} == set()
    assert not Path("/tmp/config.json").exists()


def test_of_a_model_only_its_own_files_are_unpacked(remote: httpx.Client, settings: Settings) -> None:
    folder = special("tiny", tarfile.DIRTYPE)
    members = [(tarfile.TarInfo(f"./tiny/{m.name}"), data) for m, data in MODEL]
    members += [(tarfile.TarInfo(f"tiny/{name}"), b"x") for name in ("run.py", "optimizer.pt", "LICENSE")]
    members += [(tarfile.TarInfo("tiny/onnx/config.json"), b"{}")]
    for member, data in members:
        member.size = len(data)
        member.mode = 0o4777
    file = uploaded(remote, "model.tar", tar(folder, *members))
    unpacked = settings.files_dir / file["id"] / "model"
    assert files_of(unpacked) == {"config.json", "model.safetensors", "LICENSE"}
    assert {path.stat().st_mode & 0o7111 for path in unpacked.iterdir()} == {0}
    assert files_of(settings.files_dir / file["id"]) - {f"model/{name}" for name in files_of(unpacked)} == {
        "content.tar",
        ".lock",
    }


def test_of_a_model_at_the_top_no_folder_below_is_kept(remote: httpx.Client, settings: Settings) -> None:
    """It would be neither checked nor counted."""
    file = uploaded(remote, "model.tar", tar(*MODEL, plain("sub/big.safetensors", bytes(1 << 20))))
    unpacked = settings.files_dir / file["id"] / "model"
    assert files_of(unpacked) == {member.name for member, _ in MODEL}


def pieces(count: int, sent: list[int]) -> Iterator[bytes]:
    yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
    for number in range(count):
        sent.append(number)
        yield b"a" * 65536
    yield b"\r\n--x--\r\n"


MULTIPART = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize("per", ["file", "project"])
def test_too_much_is_refused_and_not_read_to_its_end(
    per: str, server: RunningServer, remote: httpx.Client, settings: Settings
) -> None:
    limit = 4 << 20
    if per == "file":
        settings.max_upload_bytes, problem = limit, "file-too-large"
    else:
        settings.max_stored_bytes_per_project, problem = limit, "no-room-for-file"
    sent: list[int] = []
    response = remote.post("/v1/files", content=pieces(10_000, sent), headers=MULTIPART)
    assert (response.status_code, code(response), response.json()["limit"]) == (413, problem, limit)
    assert str(limit) in response.json()["detail"]
    assert len(sent) < 1000, "it was read on"
    with connect(server, {"Content-Length": str(limit + (2 << 20))}) as connection:  # and not a byte of it
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    nothing_is_left(remote, settings)


def test_a_reserve_of_the_disk_stays_free(remote: httpx.Client, settings: Settings, small_disk: Path) -> None:
    """Whatever a request says that it brings, and whatever a model unpacks to."""
    settings.files_dir.symlink_to(small_disk)
    settings.disk_reserve_bytes = 48 << 20
    size = 20 << 20  # of 64 - 48 MiB
    weights = safetensors({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}, bytes(size))
    packed = tar(MODEL[0], plain("model.safetensors", weights), zipped=True)
    assert len(packed) < 1 << 16
    sent: list[int] = []
    for response in (
        send(remote, "notes.txt", b"a" * size),
        remote.post("/v1/files", content=pieces(10_000, sent), headers=MULTIPART),
        send(remote, "model.tar.gz", packed),
    ):
        assert (response.status_code, code(response)) == (507, "no-space")
        nothing_is_left(remote, settings)
    assert len(sent) < 1000, "it was read on"
    uploaded(remote, "notes.txt", b"a" * (10 << 20))


def test_what_a_project_stores_counts_unpacked_and_until_it_is_deleted(
    remote: httpx.Client, settings: Settings, sessions: Sessions
) -> None:
    weights = safetensors(
        {"w": {"dtype": "F32", "shape": [1 << 18], "data_offsets": [0, 1 << 20]}}, bytes(1 << 20)
    )
    packed = tar(MODEL[0], plain("model.safetensors", weights), zipped=True)
    assert len(packed) < 1 << 14
    settings.max_stored_bytes_per_project = 3 << 19
    file = uploaded(remote, "model.tar.gz", packed)
    again = send(remote, "model.tar.gz", packed)
    assert (again.status_code, code(again)) == (413, "no-room-for-file")
    assert [path.name for path in settings.files_dir.iterdir()] == [file["id"]]
    other = {"Authorization": f"Bearer {make_key(sessions, 'another')[1]}"}
    assert (
        httpx.post(
            f"{remote.base_url}/v1/files", headers=other, files={"file": ("a.txt", TEXT)}, timeout=60
        ).status_code
        == 201
    )
    assert remote.delete(f"/v1/files/{file['id']}").json() == {
        "object": "file",
        "id": file["id"],
        "deleted": True,
    }
    wait_for(lambda: not (settings.files_dir / file["id"]).exists())
    assert remote.get(f"/v1/files/{file['id']}").status_code == 404
    uploaded(remote, "model.tar.gz", packed)


@pytest.mark.parametrize(
    ("content", "headers", "status", "problem"),
    [
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported-media-type"),
        (b"", {"Content-Type": "multipart/form-data"}, 415, "unsupported-media-type"),
        (b"", {"Content-Type": f"multipart/form-data; boundary={'x' * 999}"}, 422, "invalid-upload"),
        (b"", MULTIPART, 422, "invalid-upload"),
        (b"garbage", MULTIPART, 422, "invalid-upload"),
        (b"--x--\r\n", MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, []))[:-5], MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, []))[:-4] + b"".join(pieces(1, []))[3:], MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, [])).replace(b'"file"', b'"data"'), MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, [])).replace(b'"file"', b'"sha256"'), MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, [])).replace(b"a.txt", b""), MULTIPART, 422, "invalid-upload"),
        (b"".join(pieces(1, [])).replace(b"a.txt", b"\xff.txt"), MULTIPART, 422, "invalid-upload"),
    ],
)
def test_a_form_that_cannot_be_read(
    content: bytes,
    headers: dict[str, str],
    status: int,
    problem: str,
    remote: httpx.Client,
    settings: Settings,
) -> None:
    response = remote.post("/v1/files", content=content, headers=headers)
    assert (response.status_code, code(response)) == (status, problem)
    nothing_is_left(remote, settings)


def connect(server: RunningServer, headers: dict[str, str]) -> socket.socket:
    """A connection on which the head of an upload has been sent."""
    url = httpx.URL(server.url)
    connection = socket.create_connection((url.host, url.port), timeout=60)
    headers = {"Host": url.host, "Authorization": f"Bearer {server.key}", **MULTIPART, **headers}
    lines = ["POST /v1/files HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection.sendall("\r\n".join(lines).encode())
    return connection


def begin_upload(server: RunningServer, settings: Settings) -> socket.socket:
    """A connection on which half of an upload has been sent, and has arrived."""
    body = b"".join(pieces(4, []))
    connection = connect(server, {"Content-Length": str(len(body))})
    connection.sendall(body[: len(body) // 2])
    wait_for(lambda: settings.files_dir.is_dir() and any(settings.files_dir.iterdir()))
    return connection


def test_an_upload_that_is_broken_off_leaves_nothing(
    server: RunningServer, remote: httpx.Client, settings: Settings
) -> None:
    connection = begin_upload(server, settings)
    assert remote.get("/v1/files").json()["data"] == []
    connection.close()
    wait_for(lambda: not any(settings.files_dir.iterdir()))
    nothing_is_left(remote, settings)


def test_an_upload_that_falls_silent_leaves_nothing(
    server: RunningServer, remote: httpx.Client, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "IDLE_SECONDS", 0.3)
    with begin_upload(server, settings) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")
        wait_for(lambda: not connection.recv(65536))
    nothing_is_left(remote, settings)


def test_an_upload_whose_key_is_revoked_meanwhile_leaves_nothing(
    server: RunningServer, remote: httpx.Client, settings: Settings, sessions: Sessions
) -> None:
    key_id, token = make_key(sessions)

    def revoked_on_the_way() -> Iterator[bytes]:
        first, *rest = pieces(4, [])
        yield first
        wait_for(lambda: settings.files_dir.is_dir() and any(settings.files_dir.iterdir()))
        with sessions.begin() as session:
            keys.revoke(session, key_id)
        yield from rest

    headers = {"Authorization": f"Bearer {token}", **MULTIPART}
    response = httpx.post(f"{server.url}/v1/files", content=revoked_on_the_way(), headers=headers, timeout=60)
    assert (response.status_code, code(response)) == (401, "unauthorized")
    nothing_is_left(remote, settings)


def test_uploads_that_take_long_to_check_hold_up_no_other_request(
    server: RunningServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()
    monkeypatch.setattr(content, "check_text", lambda *_: go_on.wait())
    with server.client() as client, ThreadPoolExecutor(45) as pool:  # requests share 40 threads
        try:
            sent = [pool.submit(send, client, "a.txt", TEXT) for _ in range(45)]
            wait_for(lambda: len([*settings.files_dir.glob(".file_*")]) == 45, seconds=30)
            assert client.get("/v1/jobs").status_code == 200
        finally:
            go_on.set()
        assert {answer.result().status_code for answer in sent} == {201}


def test_an_upload_is_locked_by_a_file(settings: Settings) -> None:
    """On NFS a lock on the folder would be seen by its own machine alone."""
    with (
        Incoming(settings, Room(100, ())) as incoming,
        (incoming.folder / ".lock").open("r+b") as file,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_a_crash_left_is_removed_and_nothing_else(
    client: TestClient, settings: Settings, sessions: Sessions
) -> None:
    kept = uploaded(client, "notes.txt", TEXT)
    crashed = [Incoming(settings, Room(100, ())) for _ in range(2)]
    crashed[1].publish(".txt")
    (settings.files_dir / "of the operator").mkdir()
    names = {path.name for path in settings.files_dir.iterdir()}
    service.sweep(sessions, settings)
    assert {path.name for path in settings.files_dir.iterdir()} == names, "these are in progress"
    for incoming in crashed:
        incoming.keep()
        incoming.__exit__(None, None, None)  # as the kernel does with a process
    with TestClient(create_app(settings)):  # its start
        wait_for(lambda: {path.name for path in settings.files_dir.iterdir()} == {kept["id"], "of the operator"})


def test_files_in_jobs(client: TestClient, sessions: Sessions, settings: Settings) -> None:
    model = uploaded(client, "model.tar", tar(*MODEL))["id"]
    text = uploaded(client, "notes.txt", TEXT)["id"]
    other = {"Authorization": f"Bearer {make_key(sessions, 'another')[1]}"}
    body = {
        "model": model,
        "calibration": {"source": text},
        "evaluation": {"sources": ["pydocs", text]},
    }
    job = client.post("/v1/jobs", json=body, headers={"Idempotency-Key": "1"})
    assert job.status_code == 201, job.text
    assert (job.json()["spec"]["model"], job.json()["spec"]["calibration"]["source"]) == (model, text)

    for change, problem in (
        ({"model": model}, "model-not-found"),
        ({"calibration": {"source": text}}, "text-not-found"),
    ):
        request = {"model": "smollm2-135m-instruct", **change}
        foreign = client.post("/v1/jobs", json=request, headers=other)
        assert (foreign.status_code, code(foreign)) == (422, problem)
        unknown_id = model[:-1] + ("0" if model[-1] != "0" else "1")
        unknown = client.post("/v1/jobs", json=json.loads(json.dumps(request).replace(model, unknown_id)))
        if "model" in change:
            assert unknown.json() == {
                **foreign.json(),
                "detail": foreign.json()["detail"].replace(model, unknown_id),
            }

    for change in ({"model": text}, {"model": model, "calibration": {"source": model}}):
        wrong = client.post("/v1/jobs", json=change)
        assert (wrong.status_code, code(wrong)) == (422, "wrong-file-type")

    for file_id in (model, text):
        used = client.delete(f"/v1/files/{file_id}")
        assert (used.status_code, code(used), used.json()["job_id"]) == (409, "file-in-use", job.json()["id"])
    with sessions.begin() as session:
        jobs.cancel(session, "default", job.json()["id"])
    assert client.delete(f"/v1/files/{model}").status_code == 200
    assert not (settings.files_dir / model).exists()
    assert client.delete(f"/v1/files/{model}").status_code == 404
    assert client.get(f"/v1/jobs/{job.json()['id']}").json()["spec"]["model"] == model


def test_a_file_that_the_operator_removed(client: TestClient, settings: Settings) -> None:
    file = uploaded(client, "notes.txt", TEXT)
    (settings.files_dir / file["id"] / "content.txt").unlink()
    response = client.get(file["url"])
    assert (response.status_code, code(response)) == (410, "file-gone")


def test_a_folder_that_another_sweep_has_removed_is_passed_over(tmp_path: Path) -> None:
    assert lock(tmp_path / "removed") is None
