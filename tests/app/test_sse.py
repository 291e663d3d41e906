"""Server-sent events over a real connection: live, resumed, and ended with the job."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from httpx_sse import ServerSentEvent, connect_sse
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from app.examples import REPORT
from app.jobs import leases, sse
from app.jobs.leases import Lease
from app.keys import service as keys
from app.keys.models import ApiKey
from tests.app.build import make_job
from tests.app.conftest import RunningServer
from tests.app.test_leases import must_claim
from tests.conftest import wait_for

Sessions = sessionmaker[Session]
ACCEPT = {"Accept": "text/event-stream"}


def progress(sessions: Sessions, lease: Lease, fraction: float) -> None:
    with sessions.begin() as session:
        leases.record_progress(session, lease, progress=fraction, stage="prune")


def succeed(sessions: Sessions, lease: Lease) -> None:
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=[], artifacts_dir="x")


def read(client: httpx.Client, job_id: str, most: int = 1000, **headers: str) -> list[ServerSentEvent]:
    """The events of one connection, until it ends or `most` have come."""
    received = []
    with connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers={**ACCEPT, **headers}) as source:
        for event in source.iter_sse():
            received.append(event)
            if len(received) == most:
                break
    return received


def test_streams_hold_up_no_other_request(
    server: RunningServer, app: FastAPI, sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event wakes all who follow the job, and each of them reads it for itself."""
    go_on = threading.Event()
    read_events = sse._read

    def read_later(*arguments: Any) -> Any:
        go_on.wait()
        return read_events(*arguments)

    monkeypatch.setattr(sse, "_read", read_later)
    job_id = make_job(sessions)
    succeed(sessions, must_claim(sessions, job_id))
    with server.client() as client, ThreadPoolExecutor(45) as pool:  # requests share 40 threads
        try:
            streams = [pool.submit(read, client, job_id) for _ in range(45)]
            wait_for(lambda: app.state.watch.threads.statistics().tasks_waiting == 45 - 4)
            assert client.get("/v1/jobs").status_code == 200
        finally:
            go_on.set()
        assert {stream.result()[-1].event for stream in streams} == {"job.succeeded"}


def test_events_arrive_while_the_job_runs_and_the_stream_ends_with_it(
    server: RunningServer, sessions: Sessions
) -> None:
    job_id = make_job(sessions)
    seen: list[dict[str, Any]] = []
    with (
        server.client() as client,
        connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=ACCEPT) as source,
    ):
        events = source.iter_sse()
        seen.append(json.loads(next(events).data))
        lease = must_claim(sessions, job_id)
        seen.append(json.loads(next(events).data))  # comes before the next step is made: it is live
        progress(sessions, lease, 0.5)
        seen.append(json.loads(next(events).data))
        succeed(sessions, lease)
        seen += [json.loads(event.data) for event in events]
    assert [event["type"] for event in seen] == ["job.queued", "job.running", "job.progress", "job.succeeded"]
    assert [event["id"] for event in seen] == [1, 2, 3, 4]
    assert [event["progress"] for event in seen] == [0, 0, 0.5, 1]


def test_a_stream_is_resumed_where_it_broke_off(server: RunningServer, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    for step in range(300):  # more than the server reads at once
        progress(sessions, lease, step / 1000)
    with server.client() as client:
        first = read(client, job_id, most=7)
        assert [event.id for event in first] == [str(number) for number in range(1, 8)]
        succeed(sessions, lease)
        rest = read(client, job_id, **{"Last-Event-ID": first[-1].id})
        assert [event.id for event in rest] == [str(number) for number in range(8, 304)]
        assert (rest[-1].event, rest[0].event) == ("job.succeeded", "job.progress")
        assert read(client, job_id, **{"Last-Event-ID": rest[-1].id}) == []


def test_a_stream_is_the_same_as_the_pages(server: RunningServer, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    progress(sessions, lease, 0.5)
    succeed(sessions, lease)
    with server.client() as client:
        pages = client.get(f"/v1/jobs/{job_id}/events?limit=100").json()["data"]
        streamed = read(client, job_id)
        assert [json.loads(event.data) for event in streamed] == pages
        assert [event.event for event in streamed] == [event["type"] for event in pages]


def test_many_listeners_leave_room_for_requests(server: RunningServer, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    with server.client() as client, ThreadPoolExecutor(60) as pool:

        def listen(_: int) -> int:
            with server.client() as own:
                return len(read(own, job_id))

        listening = [pool.submit(listen, number) for number in range(60)]
        assert client.get(f"/v1/jobs/{job_id}").status_code == 200
        succeed(sessions, lease)
        assert {future.result() for future in listening} == {3}


def test_streams_that_wait_are_looked_after_together(
    server: RunningServer, app: FastAPI, sessions: Sessions
) -> None:
    """Once they have what there is, no stream asks for itself until there is more."""
    job_ids = [make_job(sessions) for _ in range(20)]
    opened = threading.Semaphore(0)
    asked: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        if "job_events" in statement:
            asked.append("events")
        elif "last_sequence" in statement and "lease" not in statement:
            asked.append("turn")

    def listen(job_id: str) -> list[str]:
        with (
            server.client() as client,
            connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=ACCEPT) as source,
        ):
            events = source.iter_sse()
            first = next(events).event
            opened.release()
            return [first, *(one.event for one in events)]

    with ThreadPoolExecutor(len(job_ids)) as pool:
        listening = [pool.submit(listen, job_id) for job_id in job_ids]
        for _ in job_ids:
            assert opened.acquire(timeout=60)
        engine = app.state.readers.kw["bind"]
        event.listen(engine, "before_cursor_execute", note)
        # A turn from before a stream had its first event has it ask once more.
        wait_for(lambda: asked[-3:] == ["turn"] * 3)
        asked.clear()
        wait_for(lambda: asked.count("turn") >= 3)
        event.remove(engine, "before_cursor_execute", note)
        for job_id in job_ids:
            succeed(sessions, must_claim(sessions, job_id))
        assert {tuple(future.result()) for future in listening} == {("job.queued", "job.running", "job.succeeded")}
    assert "events" not in asked


def test_a_stream_ends_with_its_key(server: RunningServer, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    with (
        server.client() as client,
        connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=ACCEPT) as source,
    ):
        events = source.iter_sse()
        assert next(events).event == "job.queued"
        with sessions.begin() as session:
            keys.revoke(session, must_authenticate(session, server.key).id)
        must_claim(sessions, job_id)
        assert [event.event for event in events] == [], "told of what came after"


def must_authenticate(session: Session, token: str) -> ApiKey:
    key = keys.authenticate(session, token)
    assert key is not None
    return key


def test_a_server_that_stops_ends_its_streams(server: RunningServer, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    with (
        server.client() as client,
        connect_sse(client, "GET", f"/v1/jobs/{job_id}/events", headers=ACCEPT) as source,
    ):
        events = source.iter_sse()
        assert next(events).event == "job.queued"
        server.stop()
        assert list(events) == []
