"""Lists read as many rows as they answer with, however many are stored: what PostgreSQL's EXPLAIN says of them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, event, insert, select, text

from app.artifacts.models import Artifact
from app.audit.models import AuditEntry
from app.db import Base, make_engine, make_sessions, utcnow
from app.files.models import FileType, UploadedFile
from app.ids import new_id
from app.jobs.models import Job, JobEvent, JobState
from app.keys import service
from app.keys.scopes import Scope
from app.sweeps.models import Sweep
from app.webhooks.models import DeliveryState, WebhookDelivery, WebhookEndpoint
from tests.app.build import make_job
from tests.conftest import empty

ROWS = 5_000
# Has so few rows here that an index is not worth its while.
FEW = "api_keys"


def add(connection: Connection, table: type[Base], rows: list[dict[str, Any]]) -> None:
    connection.execute(insert(table.__table__), rows)


@dataclass(frozen=True)
class Stored:
    """What tests find in the database."""

    token: str  # of a key that may see everything
    ids: dict[str, str]  # of some of its rows, by what paths call them


@pytest.fixture(scope="module")
def stored(postgres_url: str) -> Stored:
    """Thousands of rows in every table that is listed. Stored once: requests only read them."""
    engine = make_engine(postgres_url)
    sessions = make_sessions(engine)
    empty(engine)
    with sessions.begin() as session:
        _, token = service.create(session, name="test", scopes=list(Scope))
    job_id = make_job(sessions)
    endpoint = new_id("whk")
    now = utcnow()
    with engine.begin() as connection:
        job = dict(connection.execute(select(Job.__table__).where(Job.id == job_id)).mappings().one())
        job = {name: value for name, value in job.items() if name not in ("model", "method")}  # its own to compute
        done = job | {"state": JobState.SUCCEEDED, "finished_at": now}
        sweeps = [new_id("sweep") for _ in range(ROWS)]
        swept = {"project": "default", "key_id": job["key_id"], "metadata": {}, "model": "a", "trials": []}
        add(connection, Sweep, [swept | {"id": sweep_id, "created_at": now} for sweep_id in sweeps])
        copies = [
            done | {"id": new_id("job"), "project": "b" if i % 20 else "default", "sweep_id": sweeps[i // 4]}
            for i in range(ROWS)
        ]
        add(connection, Job, copies)
        happened = {"type": "job.progress", "state": JobState.RUNNING, "progress": 0.5, "stage": "prune"}
        happened |= {"message": "", "data": {}, "created_at": now}
        add(connection, JobEvent, [happened | {"job_id": job_id, "sequence": 2 + i} for i in range(ROWS)])
        file: dict[str, Any] = {"bytes": 1, "sha256": "0" * 64, "media_type": "text/plain", "created_at": now}
        of_jobs = [{"id": new_id("art"), "job_id": copy["id"], "name": "x"} for copy in copies]
        add(connection, Artifact, [file | row for row in of_jobs])
        upload = file | {"name": "a.txt", "suffix": ".txt", "type": FileType.TEXT, "stored_bytes": 1}
        add(connection, UploadedFile, [upload | {"id": new_id("file"), "project": "default"} for _ in range(ROWS)])
        entry = {
            "project": "default",
            "key_id": None,
            "action": "job.submitted",
            "subject": "x",
            "created_at": now,
        }
        add(connection, AuditEntry, [entry | {"id": new_id("audit")} for _ in range(ROWS)])
        hook = {"url": "https://example.com", "events": "", "description": "", "enabled": False, "secret": ""}
        hook |= {"project": "b", "created_at": now}
        hooks = [hook | {"id": new_id("whk")} for _ in range(ROWS)]
        add(connection, WebhookEndpoint, [*hooks, hook | {"id": endpoint, "project": "default"}])
        sent = {"type": "ping", "payload": "{}", "state": DeliveryState.DELIVERED, "created_at": now}
        sent |= {"endpoint_id": endpoint}
        add(connection, WebhookDelivery, [sent | {"id": new_id("msg")} for _ in range(ROWS)])
        connection.execute(text("ANALYZE"))
    engine.dispose()
    return Stored(token, {"job": job_id, "sweep": sweeps[20], "endpoint": endpoint})


@pytest.fixture
def database_url(stored: Stored, postgres_url: str) -> str:
    """The database with all that is stored."""
    return postgres_url


@pytest.fixture
def client(app: FastAPI, stored: Stored) -> TestClient:
    """One that may see everything, of a service that does nothing besides."""
    return TestClient(app, headers={"Authorization": f"Bearer {stored.token}"})


@pytest.fixture
def asked(client: TestClient) -> Iterator[list[tuple[str, Any]]]:
    """Every statement that requests have sent, with its parameters."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith("SELECT"):
            statements.append((statement, parameters))

    engine = client.app.state.readers.kw["bind"]  # type: ignore[attr-defined]
    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs",
        "/v1/jobs?state=succeeded",
        "/v1/jobs?state=queued",
        "/v1/jobs?state=failed",
        "/v1/jobs?after={job}",
        "/v1/jobs?sort=created_at",
        "/v1/jobs?model=smollm2-135m-instruct",
        "/v1/jobs?model=another",
        "/v1/jobs?method=eggs&after={job}",
        "/v1/jobs?method=ria",
        "/v1/jobs?sort=model",
        "/v1/jobs?sort=-method",
        "/v1/jobs?sort=-state",
        "/v1/jobs?sort=-model&after={job}",
        "/v1/jobs/{job}",
        "/v1/jobs/{job}/events?after=3000",
        "/v1/jobs/{job}/artifacts",
        "/v1/jobs?sweep={sweep}",
        "/v1/sweeps",
        "/v1/sweeps/{sweep}",
        "/v1/files",
        "/v1/audit",
        "/v1/webhooks",
        "/v1/webhooks/{endpoint}/deliveries",
        "/v1/webhooks/{endpoint}/deliveries?state=failed",
    ],
)
def test_no_more_rows_are_read_than_answered(
    client: TestClient, engine: Engine, stored: Stored, asked: list[tuple[str, Any]], path: str
) -> None:
    response = client.get(path.format(**stored.ids))
    assert response.status_code == 200, response.text
    assert asked
    with engine.connect() as connection:
        cursor = connection.connection.cursor()
        for statement, parameters in asked:
            cursor.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            (plan,) = cursor.fetchone()[0]
            for node in nodes(plan["Plan"]):
                told = json.dumps(node, indent=1)
                assert node["Node Type"] not in ("Seq Scan", "Sort") or node.get("Relation Name") == FEW, told
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                assert read <= 25, f"{statement}\n{told}"


def test_a_list_without_its_index_would_be_noticed(
    client: TestClient, engine: Engine, stored: Stored, asked: list[tuple[str, Any]]
) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_jobs_project_state_id"))
        connection.execute(text("DROP INDEX ix_jobs_state_lease_expires_at"))
    try:
        with pytest.raises(AssertionError):
            test_no_more_rows_are_read_than_answered(client, engine, stored, asked, "/v1/jobs?state=failed")
    finally:
        with engine.begin() as connection:
            connection.execute(text("CREATE INDEX ix_jobs_project_state_id ON jobs (project, state, id)"))
            connection.execute(
                text("CREATE INDEX ix_jobs_state_lease_expires_at ON jobs (state, lease_expires_at)")
            )
