"""Connections to PostgreSQL that are cut, between requests and within one: 503 at worst, and then all works."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from sqlalchemy import Connection, Engine, text

from app import db
from tests.app.test_jobs_api import BODY, code
from tests.conftest import wait_for

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)

OTHERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid()"
)
SWEEP = {**BODY, "trials": [{"pattern": "2:4"}, {"pattern": "4:8"}]}


def cut(connection: Connection) -> None:
    """Ends every connection to the database but this one."""
    connection.execute(text("SELECT pg_stat_clear_snapshot()"))
    connection.execute(OTHERS)


@pytest.fixture
def requests(client: TestClient) -> list[Callable[[], Response]]:
    """Requests that read and that write, of which each can be repeated."""
    path = f"/v1/jobs/{client.post('/v1/jobs', json=BODY).json()['id']}"

    def request(method: str, path: str, **content: Any) -> Callable[[], Response]:
        return lambda: client.request(method, path, **content)

    return [
        request("GET", path),
        request("GET", "/v1/jobs"),
        request("GET", f"{path}/events"),
        request("GET", f"{path}/artifacts"),
        request("POST", "/v1/jobs", json=BODY, headers={"Idempotency-Key": "once"}),
        request("POST", "/v1/sweeps", json=SWEEP, headers={"Idempotency-Key": "once more"}),
        request("GET", "/v1/files"),
        request("POST", "/v1/files", files={"file": ("a.txt", b"A text.")}),
    ]


def is_fine(answer: Response) -> bool:
    return answer.status_code in (200, 201)


def is_told(answer: Response) -> bool:
    """Whether it says that the database is away."""
    return (answer.status_code, code(answer), answer.headers["retry-after"]) == (503, "database-unavailable", "5")


@pytest.mark.parametrize("trusted", [0.0, 60.0], ids=["unused for a while", "just used"])
def test_between_requests(
    trusted: float, requests: list[Callable[[], Response]], engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "_TRUSTED_SECONDS", trusted)
    for request in requests:
        assert is_fine(request())
        with engine.connect() as connection:
            cut(connection)
        answer = request()
        assert is_fine(answer) or (trusted and is_told(answer))
        assert is_fine(request())


@pytest.mark.parametrize("tables", ["jobs, files", "api_keys"])
def test_in_the_middle_of_a_request(
    tables: str, requests: list[Callable[[], Response]], client: TestClient, engine: Engine
) -> None:
    with ThreadPoolExecutor(len(requests)) as pool, engine.connect() as connection:
        connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))
        answers = [pool.submit(request) for request in requests]

        def all_have_come() -> bool:
            cut(connection)
            return all(answer.done() for answer in answers)

        wait_for(all_have_come, seconds=60)
    assert all(is_told(answer.result()) for answer in answers)
    assert all(is_fine(request()) for request in requests)
    assert len(client.get("/v1/jobs").json()["data"]) == 1 + 1 + len(SWEEP["trials"])
