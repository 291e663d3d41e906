"""What a key may take: limits of the installation and its own, of which the tighter one holds."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app.files import content
from app.files.models import UploadedFile
from app.keys.limits import MOST, NONE, KeyLimits, Limits
from app.keys.scopes import Scope
from app.settings import Settings
from tests.app.build import make_key
from tests.app.conftest import RunningServer
from tests.app.test_files import CONFIG, plain, safetensors, send, tar
from tests.app.test_jobs_api import code
from tests.app.test_scheduling import finish, submit, take
from tests.app.test_scopes import key_with

Sessions = sessionmaker[Session]
BODY = {"model": "smollm2-135m-instruct"}
SETTINGS = {
    "queued_jobs": "max_queued_per_key",
    "running_jobs": "max_running_per_key",
    "upload_bytes": "max_upload_bytes",
    "stored_bytes": "max_stored_bytes_per_key",
}

Limited = Callable[..., dict[str, str]]


@pytest.fixture(params=["installation", "key"])
def limited(request: pytest.FixtureRequest, settings: Settings, sessions: Sessions) -> Limited:
    """Gives the headers of a new key that is limited: by the installation, or more tightly than that by itself."""

    def make(**limits: int) -> dict[str, str]:
        if request.param == "installation":
            for name, limit in limits.items():
                setattr(settings, SETTINGS[name], limit)
            limits = {name: limit + 1 for name, limit in limits.items()}  # which lifts nothing
        return {"Authorization": f"Bearer {make_key(sessions, **limits)[1]}"}

    return make


def test_limits_are_given_and_shown(anonymous: TestClient, sessions: Sessions) -> None:
    admin = key_with(sessions, Scope.ADMIN)
    limits = {"queued_jobs": 0, "running_jobs": 1, "upload_bytes": 1 << 40, "stored_bytes": MOST}
    made = anonymous.post("/v1/keys", headers=admin, json={"name": "all", "limits": limits})
    assert (made.status_code, made.json()["limits"]) == (201, limits)
    some = anonymous.post("/v1/keys", headers=admin, json={"name": "one", "limits": {"running_jobs": 3}})
    none = dict.fromkeys(limits)
    assert some.json()["limits"] == none | {"running_jobs": 3}
    listed = anonymous.get("/v1/keys", headers=admin).json()["data"]
    assert {key["name"]: key["limits"] for key in listed} == {
        "test": none,
        "all": limits,
        "one": none | {"running_jobs": 3},
    }


@pytest.mark.parametrize(
    "limits",
    [
        {"queued_jobs": -1},
        {"running_jobs": 0},
        {"upload_bytes": 0},
        {"stored_bytes": 0},
        {"stored_bytes": MOST + 1},
        {"running_jobs": 1.5},
        {"requests": 1},
        None,
    ],
)
def test_limits_that_cannot_be_given(limits: Any, anonymous: TestClient, sessions: Sessions) -> None:
    admin = key_with(sessions, Scope.ADMIN)
    response = anonymous.post("/v1/keys", headers=admin, json={"limits": limits})
    assert (response.status_code, code(response)) == (422, "invalid-request")


@pytest.mark.parametrize("name", SETTINGS)
def test_of_two_limits_the_tighter_one_holds(name: str, settings: Settings) -> None:
    def holds(own: int | None) -> int | None:
        limit: int | None = getattr(Limits.of(settings, KeyLimits(**{name: own})), name)
        return limit

    setattr(settings, SETTINGS[name], 5)
    assert [holds(own) for own in (None, 4, 5, 6)] == [5, 4, 5, 5]


def test_only_jobs_that_run_and_stored_bytes_are_unlimited_by_default(settings: Settings) -> None:
    limits = Limits.of(settings, NONE)
    assert (limits.running_jobs, limits.stored_bytes) == (None, None)
    assert Limits.of(settings, KeyLimits(running_jobs=1, stored_bytes=2)).running_jobs == 1


def statuses(client: TestClient, headers: dict[str, str], count: int) -> list[int]:
    return [client.post("/v1/jobs", headers=headers, json=BODY).status_code for _ in range(count)]


def refused(client: TestClient, headers: dict[str, str]) -> dict[str, Any]:
    answer = client.post("/v1/jobs", headers=headers, json=BODY)
    assert (answer.status_code, code(answer), answer.headers["Retry-After"]) == (429, "too-many-queued-jobs", "60")
    document: dict[str, Any] = answer.json()
    return document


def test_jobs_that_wait(anonymous: TestClient, sessions: Sessions, limited: Limited) -> None:
    headers = limited(queued_jobs=2)
    assert statuses(anonymous, headers, 2) == [201, 201]
    problem = refused(anonymous, headers)
    assert problem["limit"] == 2
    assert problem["limits"] == {"queued_jobs": 2, "running_jobs": None}
    assert problem["jobs"] == {"queued": 2, "running": 0, "new": 1}
    assert "at most 2 may wait" in problem["detail"]
    assert "once some have started" in problem["detail"]
    assert take(sessions)
    assert statuses(anonymous, headers, 2) == [201, 429], "what runs has made room"


def test_jobs_that_wait_beside_those_that_may_run(
    anonymous: TestClient, sessions: Sessions, settings: Settings, limited: Limited
) -> None:
    headers = limited(queued_jobs=1, running_jobs=2)
    assert statuses(anonymous, headers, 3) == [201, 201, 201]
    assert refused(anonymous, headers)["jobs"] == {"queued": 3, "running": 0, "new": 1}
    first = take(sessions, settings.max_running_per_key)
    assert first
    assert take(sessions, settings.max_running_per_key)
    assert take(sessions, settings.max_running_per_key) is None, "it waits"
    problem = refused(anonymous, headers)
    assert problem["limit"] == 1
    assert problem["limits"] == {"queued_jobs": 1, "running_jobs": 2}
    assert problem["jobs"] == {"queued": 1, "running": 2, "new": 1}
    assert "at most 2 may run at a time, and 1 wait besides" in problem["detail"]
    assert "once some have ended" in problem["detail"]
    finish(sessions, first)
    assert statuses(anonymous, headers, 2) == [201, 429]


def test_where_none_may_wait_only_those_are_taken_that_may_run(
    anonymous: TestClient, sessions: Sessions, limited: Limited
) -> None:
    headers = limited(queued_jobs=0, running_jobs=1)
    assert statuses(anonymous, headers, 1) == [201]
    assert refused(anonymous, headers)["limits"] == {"queued_jobs": 0, "running_jobs": 1}
    job_id = take(sessions)
    assert job_id
    problem = refused(anonymous, headers)
    assert problem["jobs"] == {"queued": 0, "running": 1, "new": 1}
    assert "at most 1 may run at a time, and 0 wait" in problem["detail"]
    finish(sessions, job_id)
    assert statuses(anonymous, headers, 2) == [201, 429]


def test_where_none_may_wait_and_no_limit_lets_them_run_none_is_taken(
    anonymous: TestClient, sessions: Sessions
) -> None:
    headers = {"Authorization": f"Bearer {make_key(sessions, queued_jobs=0)[1]}"}
    assert "Ask whoever has made the key" in refused(anonymous, headers)["detail"]


def test_a_sweep_takes_as_many_places_as_it_makes_jobs(anonymous: TestClient, limited: Limited) -> None:
    headers = limited(queued_jobs=1, running_jobs=2)
    sweep = {**BODY, "trials": [{"pattern": "2:4"}, {"pattern": "4:8"}]}
    larger = {**BODY, "trials": [{"pattern": f"{i}:8"} for i in range(1, 5)]}
    answer = anonymous.post("/v1/sweeps", headers=headers, json=larger)
    assert (answer.status_code, answer.json()["jobs"]) == (429, {"queued": 0, "running": 0, "new": 4})
    assert "Submit 3 at a time at most." in answer.json()["detail"]
    assert anonymous.post("/v1/sweeps", headers=headers, json=sweep).status_code == 201
    answer = anonymous.post("/v1/sweeps", headers=headers, json=sweep)
    assert (answer.status_code, answer.json()["jobs"]) == (429, {"queued": 2, "running": 0, "new": 2})
    assert statuses(anonymous, headers, 2) == [201, 429]


@pytest.mark.parametrize(("own", "installation"), [(2, None), (2, 3), (3, 2)])
def test_jobs_beyond_a_keys_own_running_ones_wait(own: int, installation: int | None, sessions: Sessions) -> None:
    key_id, _ = make_key(sessions, running_jobs=own)
    jobs = submit(sessions, key_id, count=3)
    assert [take(sessions, installation) for _ in range(3)] == [jobs[0], jobs[1], None]
    (others,) = submit(sessions, make_key(sessions)[0])
    assert [take(sessions, installation) for _ in range(2)] == [others, None]
    finish(sessions, jobs[0])
    assert [take(sessions, installation) for _ in range(2)] == [jobs[2], None]


def test_what_a_lost_worker_left_does_not_wait_for_a_keys_own_limit(sessions: Sessions) -> None:
    key_id, _ = make_key(sessions, running_jobs=1)
    lost, waiting = submit(sessions, key_id, count=2)
    assert [take(sessions, lease_seconds=-1), take(sessions), take(sessions)] == [lost, lost, None]
    finish(sessions, lost)
    assert take(sessions) == waiting


def at_once(
    server: RunningServer, headers: dict[str, str], send: Callable[[httpx.Client], Any], times: int
) -> Any:
    """How often each status was answered to requests that were sent together."""
    together = Barrier(times)

    def answer(_: int) -> int:
        with httpx.Client(base_url=server.url, headers=headers, timeout=120) as client:
            client.get("/healthz").raise_for_status()  # connects
            together.wait(20)
            status: int = send(client).status_code
            return status

    with ThreadPoolExecutor(times) as pool:
        return Counter(pool.map(answer, range(times)))


def test_requests_at_once_make_no_more_jobs_than_may_run_and_wait(
    server: RunningServer, sessions: Sessions
) -> None:
    key_id, token = make_key(sessions, queued_jobs=4, running_jobs=3)
    submit(sessions, key_id)
    assert take(sessions)
    headers = {"Authorization": f"Bearer {token}"}
    found = at_once(server, headers, lambda client: client.post("/v1/jobs", json=BODY), 20)
    assert found == {201: 6, 429: 14}


def test_how_large_a_file_may_be(anonymous: TestClient, limited: Limited) -> None:
    limit = 1 << 20
    anonymous.headers.update(limited(upload_bytes=limit))
    assert send(anonymous, "a.txt", b"a" * limit).status_code == 201
    for name, data in (
        ("a.txt", b"a" * (limit + 1)),
        ("model.tar.gz", tar(plain("config.json", CONFIG), plain("other", bytes(limit)), zipped=True)),
    ):
        answer = send(anonymous, name, data)
        assert (answer.status_code, code(answer), answer.json()["limit"]) == (413, "file-too-large", limit)
        assert str(limit) in answer.json()["detail"]


def test_how_much_a_key_may_store(
    anonymous: TestClient, sessions: Sessions, settings: Settings, limited: Limited
) -> None:
    weights = safetensors(
        {"w": {"dtype": "F32", "shape": [1 << 12], "data_offsets": [0, 1 << 14]}}, bytes(1 << 14)
    )
    packed = tar(plain("config.json", CONFIG), plain("model.safetensors", weights), zipped=True)
    unpacked = len(packed) + len(weights) + len(CONFIG)
    limit = unpacked + 100
    headers = limited(stored_bytes=limit)
    anonymous.headers.update(headers)
    file = send(anonymous, "model.tar.gz", packed)
    assert file.status_code == 201, "what it unpacks to fits too"
    for name, data in (("model.tar.gz", packed), ("a.txt", b"a" * 101)):
        answer = send(anonymous, name, data)
        assert (answer.status_code, code(answer)) == (413, "no-room-for-file")
        assert (answer.json()["limit"], answer.json()["whose"]) == (limit, "key")
        assert "this API key has uploaded" in answer.json()["detail"]
    text = send(anonymous, "a.txt", b"a" * 100)
    assert text.status_code == 201, "exactly as much as there is room for"
    assert send(anonymous, "a.txt", b"a").status_code == 413

    anonymous.headers.update({"Authorization": f"Bearer {make_key(sessions)[1]}"})
    others = send(anonymous, "a.txt", b"a" * limit)
    assert others.status_code == 201, "what one key stores is no hindrance to another of the project"
    used = {**BODY, "calibration": {"source": text.json()["id"]}}
    assert anonymous.post("/v1/jobs", json=used).status_code == 201
    assert anonymous.delete(f"/v1/files/{file.json()['id']}").status_code == 200

    anonymous.headers.update(headers)
    assert send(anonymous, "model.tar.gz", packed).status_code == 201, "whoever has deleted the first one"
    assert send(anonymous, "a.txt", b"a").status_code == 413, "its text counts, whoever uses it"

    settings.max_stored_bytes_per_project = limit * 2
    anonymous.headers.update({"Authorization": f"Bearer {make_key(sessions, stored_bytes=limit)[1]}"})
    answer = send(anonymous, "a.txt", b"a")
    assert (answer.json()["limit"], answer.json()["whose"]) == (limit * 2, "project")


def test_files_of_an_earlier_version_count_against_no_key(client: TestClient, sessions: Sessions) -> None:
    made = send(client, "a.txt", b"a" * 100).json()
    assert made["key_id"].startswith("key_")
    with sessions.begin() as session:
        session.execute(update(UploadedFile).values(key_id=None))
    assert client.get(f"/v1/files/{made['id']}").json()["key_id"] is None
    client.headers.update({"Authorization": f"Bearer {make_key(sessions, stored_bytes=100)[1]}"})
    assert [send(client, "a.txt", b"a" * 100).status_code for _ in range(2)] == [201, 413]


@pytest.mark.parametrize("whose", ["key", "project"])
def test_uploads_at_once_take_no_more_room_than_there_is(
    whose: str, server: RunningServer, sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads = 8
    arrived = Barrier(uploads)
    check_text = content.check_text

    def check_together(*arguments: Any) -> None:
        check_text(*arguments)
        arrived.wait(20)  # all have come, and found room

    monkeypatch.setattr(content, "check_text", check_together)
    limits = {"stored_bytes": 350} if whose == "key" else {}
    if whose == "project":
        settings.max_stored_bytes_per_project = 350
    headers = {"Authorization": f"Bearer {make_key(sessions, **limits)[1]}"}
    upload = {"file": ("a.txt", b"a" * 100)}
    found = at_once(server, headers, lambda client: client.post("/v1/files", files=upload), uploads)
    assert found == {201: 3, 413: 5}
    files = httpx.get(f"{server.url}/v1/files", headers=headers, timeout=60).json()["data"]
    assert {path.name for path in settings.files_dir.iterdir()} == {file["id"] for file in files}
