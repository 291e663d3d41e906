"""What goes wrong on the way: connections that are cut, answers that are lost, and a service that is busy."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

import eggs_client
from app.jobs import leases, sse
from app.settings import Settings
from eggs_client import Retries
from eggs_client.retries import Patience
from tests.app.build import make_job
from tests.app.conftest import RunningServer
from tests.app.test_cli import ACCEPT, MODEL, publish
from tests.app.test_leases import must_claim
from tests.client.conftest import MakeClient, MakeCutter, Way
from tests.conftest import wait_for

Sessions = sessionmaker[Session]
NONE = Retries(seconds=0, stream_seconds=0)


def test_a_lost_answer_makes_no_second_job(make_client: MakeClient, way: Way) -> None:
    way.faults = ["lost", "502", "503"]
    eggs = make_client(way.url)
    job = eggs.jobs.submit(model=MODEL)
    assert len(way.sent) == 4
    assert len({headers["idempotency-key"] for _, _, headers in way.sent}) == 1
    assert [one.id for one in eggs.jobs.list()] == [job.id]
    assert eggs.jobs.submit(model=MODEL).id != job.id
    assert (
        eggs.jobs.submit(model=MODEL, idempotency_key="mine").id
        == eggs.jobs.submit(model=MODEL, idempotency_key="mine").id
    )


def test_what_is_not_idempotent_is_not_repeated(make_client: MakeClient, way: Way, admin_key: str) -> None:
    eggs = make_client(way.url, admin_key)
    before = len(list(eggs.keys.list()))
    way.sent.clear()
    way.faults = ["lost"]
    with pytest.raises(eggs_client.Unreachable, match="may have arrived") as lost:
        eggs.keys.create(name="once")
    assert lost.value.sent
    assert len(way.sent) == 1
    assert len(list(eggs.keys.list())) == before + 1
    way.faults = ["503"]
    with pytest.raises(eggs_client.Unavailable):
        eggs.keys.create(name="not at all")
    way.faults = ["429"]  # nothing was begun
    assert eggs.keys.create(name="at last").name == "at last"


def test_a_deletion_whose_answer_is_lost_is_one(make_client: MakeClient, way: Way, tmp_path: Path) -> None:
    eggs = make_client(way.url)
    (tmp_path / "a.txt").write_text("A text.")
    file = eggs.files.upload(tmp_path / "a.txt")
    way.faults = ["lost", "503"]
    eggs.files.delete(file.id)
    assert [method for method, _, _ in way.sent[1:]] == ["DELETE"] * 3
    assert list(eggs.files.list()) == []


def test_retry_after_is_waited_for(make_client: MakeClient, way: Way) -> None:
    eggs = make_client(way.url)
    way.faults, way.retry_after = ["503"], "1"
    started = time.monotonic()
    assert list(eggs.jobs.list()) == []
    assert time.monotonic() - started >= 1
    way.faults, way.retry_after = ["429"], "3600"  # longer than anybody waits
    with pytest.raises(eggs_client.TooManyRequests):
        list(eggs.jobs.list())
    assert time.monotonic() - started < 250


def test_retry_after_may_be_a_date() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    for text, least in ((soon, 28), ("3", 3), ("whenever", 0), ("", 0)):
        answer = httpx.Response(503, headers={"Retry-After": text}, request=httpx.Request("GET", "http://a"))
        with pytest.raises(eggs_client.Unavailable) as error:
            eggs_client.errors.check(answer)
        pause = Patience(Retries(first_pause=0), 60, "http://a").pause(error.value, repeatable=True)
        assert least <= pause <= least + 2


def test_pauses_grow_until_the_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("eggs_client.retries.time.monotonic", lambda: now)
    patience = Patience(Retries(first_pause=1, longest_pause=4), 20, "http://a")
    pauses = []

    def try_again() -> None:
        nonlocal now
        while True:
            pauses.append(patience.pause(httpx.ConnectError("refused"), repeatable=False))
            now += pauses[-1]

    with pytest.raises(eggs_client.Unreachable, match="http://a") as error:
        try_again()
    assert not error.value.sent
    assert len(pauses) >= 5
    for pause, most in zip(pauses, [1, 2, 4, 4, 4, *[4] * 20], strict=False):
        assert most / 2 <= pause <= most
    assert 16 < sum(pauses) <= 20


def test_a_service_that_is_not_there(make_client: MakeClient) -> None:
    eggs = make_client("http://127.0.0.1:1", retries=NONE)
    for ask in (lambda: eggs.jobs.get("job_x"), lambda: list(eggs.jobs.events("job_x"))):
        with pytest.raises(eggs_client.Unreachable, match="no answer from http://127") as error:
            ask()
        assert not error.value.sent


def test_tls_that_fails_is_not_tried_again(make_client: MakeClient, way: Way) -> None:
    started = time.monotonic()
    eggs = make_client(way.url.replace("http:", "https:"), retries=Retries(seconds=300, first_pause=60))
    with pytest.raises(eggs_client.Unreachable, match=r"SSL.*EGGS_URL") as error:
        eggs.jobs.get("job_x")
    assert not error.value.sent
    assert time.monotonic() - started < 30


def test_something_else_at_the_address(make_client: MakeClient, way: Way) -> None:
    way.faults = ["502"]
    with pytest.raises(eggs_client.Unavailable, match="no eggs service"):
        make_client(way.url, retries=NONE).jobs.get("job_x")


@pytest.mark.parametrize(
    "content", [b"<html>", b"[]", b"{}", b'{"data": 3}', b'{"data": [{}], "has_more": false}', b"\xff"]
)
def test_something_else_that_answers_in_good_order(make_client: MakeClient, way: Way, content: bytes) -> None:
    eggs, way.content = make_client(way.url), content
    for ask in (
        lambda: eggs.jobs.get("job_x"),
        lambda: list(eggs.jobs.list()),
        lambda: eggs.jobs.submit(model=MODEL),
        lambda: eggs.webhooks.update("whk_x", description="mine"),
    ):
        way.faults = ["200"]
        with pytest.raises(eggs_client.ApiError, match="no eggs service") as error:
            ask()
        assert error.value.status == 200


def test_a_download_goes_on_where_it_broke_off(
    make_client: MakeClient, cutter: MakeCutter, sessions: Sessions, settings: Settings, tmp_path: Path
) -> None:
    job_id = make_job(sessions)
    content = os.urandom(2_000_000)
    publish(sessions, settings, must_claim(sessions, job_id), {"model.safetensors": content})
    (artifact,) = make_client().jobs.artifacts(job_id)
    relay = cutter([700_000, 500_000])
    eggs = make_client(relay.url)
    seen: list[int] = []
    path = eggs.jobs.download_artifact(artifact, tmp_path / "out", on_bytes=seen.append)
    assert path.read_bytes() == content
    assert relay.connections == 3
    assert seen == sorted(seen)  # it never began again
    eggs.jobs.download_artifact(artifact, tmp_path / "out")
    assert relay.connections == 3  # nothing was left to fetch


def test_a_second_download_goes_on_with_what_the_first_left(
    make_client: MakeClient, way: Way, sessions: Sessions, settings: Settings, tmp_path: Path
) -> None:
    job_id = make_job(sessions)
    content = os.urandom(300_000)
    publish(sessions, settings, must_claim(sessions, job_id), {"model.safetensors": content})
    eggs = make_client(way.url)
    (artifact,) = eggs.jobs.artifacts(job_id)
    out = tmp_path / "out"
    out.mkdir()
    left = out / "model.safetensors.part"

    left.write_bytes(content[:100_000])
    seen: list[int] = []
    path = eggs.jobs.download_artifact(artifact, out, on_bytes=seen.append)
    assert path.read_bytes() == content
    assert way.sent[-1][2]["range"] == "bytes=100000-"
    assert seen[0] > 100_000  # and no more than that has come
    assert os.listdir(out) == [path.name]

    for wrong in (b"w" * 100_000, b"w" * 300_000, b"w" * 400_000):
        path.unlink()
        left.write_bytes(wrong)
        with pytest.raises(eggs_client.Damaged):
            eggs.jobs.download(job_id, out)
        assert os.listdir(out) == []
        assert eggs.jobs.download(job_id, out)[0].read_bytes() == content
        assert "range" not in way.sent[-1][2]


def test_the_key_is_shown_to_no_other_host(
    make_client: MakeClient,
    way: Way,
    server: RunningServer,
    sessions: Sessions,
    settings: Settings,
    tmp_path: Path,
) -> None:
    job_id = make_job(sessions)
    publish(sessions, settings, must_claim(sessions, job_id), {"a.bin": b"a"})
    (artifact,) = make_client(way.url).jobs.artifacts(job_id)
    assert way.sent[-1][2]["authorization"] == f"Bearer {server.key}"
    elsewhere = artifact.model_copy(update={"url": f"{way.url}{artifact.url}"})
    with pytest.raises(eggs_client.Unauthenticated):
        make_client(server.url).jobs.download_artifact(elsewhere, tmp_path)
    assert "authorization" not in way.sent[-1][2]


def test_events_go_on_where_the_stream_broke_off(
    make_client: MakeClient, cutter: MakeCutter, sessions: Sessions, settings: Settings
) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    for step in range(20):
        with sessions.begin() as session:
            leases.record_progress(session, lease, progress=step / 20, stage="prune")
    publish(sessions, settings, lease, {})
    relay = cutter([100, 1500, 1500])
    assert [event.id for event in make_client(relay.url).jobs.events(job_id)] == list(range(1, 24))
    assert relay.connections == 4


def test_keep_alives_are_no_events(
    eggs: Any, server: RunningServer, sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "_KEEP_ALIVE_SECONDS", 0)
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    events = eggs.jobs.events(job_id)
    assert [next(events).id, next(events).id] == [1, 2]
    with ThreadPoolExecutor() as pool:
        third = pool.submit(next, events)
        with server.client() as raw, raw.stream("GET", f"/v1/jobs/{job_id}/events", headers=ACCEPT) as response:
            assert ": keep-alive" in response.iter_lines()  # and so the client above has had one too
        publish(sessions, settings, lease, {})
        assert third.result().type == "job.succeeded"


def test_a_long_quiet_phase_costs_no_patience(
    make_client: MakeClient,
    cutter: MakeCutter,
    sessions: Sessions,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sse, "_KEEP_ALIVE_SECONDS", 0.02)
    job_id = make_job(sessions)
    relay = cutter([2500])  # one event, and keep-alives for longer than the client has patience
    started = time.monotonic()
    eggs = make_client(relay.url, retries=Retries(stream_seconds=1, first_pause=0.01))
    with ThreadPoolExecutor() as pool:
        following = pool.submit(lambda: [event.type for event in eggs.jobs.events(job_id)])
        wait_for(lambda: relay.connections == 2 or following.done())
        assert time.monotonic() - started > 1
        publish(sessions, settings, must_claim(sessions, job_id), {})
        assert following.result() == ["job.queued", "job.running", "job.succeeded"]


def test_a_stream_that_ends_before_its_job_is_resumed(
    make_client: MakeClient, way: Way, sessions: Sessions, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the service loses its database: it ends its streams in good order."""
    job_id = make_job(sessions)
    real, failures = sse._read, 2

    def read(*arguments: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            return [], True
        return real(*arguments)

    monkeypatch.setattr(sse, "_read", read)
    publish(sessions, settings, must_claim(sessions, job_id), {})
    events = [event.type for event in make_client(way.url).jobs.events(job_id)]
    assert events == ["job.queued", "job.running", "job.succeeded"]
    assert sum(path.endswith("/events") for _, path, _ in way.sent) == 3
