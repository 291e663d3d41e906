"""The service as a whole: health, catalog, the OpenAPI document, failures on our side, and what it imports."""

import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from fastapi import FastAPI
from fastapi.testclient import TestClient
from kombu import Connection
from sqlalchemy import text, update
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.main import create_app
from app.queue import BrokerDown
from app.settings import Settings
from tests.app.build import make_key
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code


def test_ready(anonymous: TestClient) -> None:
    response = anonymous.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"status": "ready", "database": "ok", "migrations": "current", "broker": "ok"}


def test_not_ready_where_the_schema_is_old(anonymous: TestClient, sessions: sessionmaker[Session]) -> None:
    version = text("UPDATE alembic_version SET version_num = :version")
    with sessions.begin() as session:
        current = session.scalar(text("SELECT version_num FROM alembic_version"))
        session.execute(version, {"version": "0000"})
    try:
        response = anonymous.get("/readyz")
    finally:
        with sessions.begin() as session:
            session.execute(version, {"version": current})
    assert response.status_code == 503
    assert response.json()["migrations"] == "behind"


UNREACHABLE = ["sqlite:////nowhere/eggs.sqlite3", "postgresql+psycopg://eggs:hidden@127.0.0.1:1/eggs"]


@pytest.mark.parametrize("url", UNREACHABLE)
def test_a_database_that_is_down(url: str, tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, database_url=url, dispatch_interval_seconds=0.01))
    with TestClient(app, raise_server_exceptions=False) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["database"]) == (503, "unreachable")
        assert client.get("/healthz").status_code == 200
        token = f"eggs_{'0' * 26}_x"
        response = client.get("/v1/jobs", headers={"Authorization": f"Bearer {token}"})
        assert (response.status_code, code(response)) == (503, "database-unavailable")
        assert response.headers["retry-after"] == "5"
        for secret in ("hidden", "nowhere", "127.0.0.1", "sqlite"):
            assert secret not in response.text


def test_a_broker_that_is_down(tmp_path: Path, settings: Settings, sessions: sessionmaker[Session]) -> None:
    app = create_app(settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"}))
    with TestClient(app) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["broker"]) == (200, "unreachable")
        headers = {"Authorization": f"Bearer {make_key(sessions)[1]}"}
        response = client.post("/v1/jobs", json={"model": "smollm2-135m-instruct"}, headers=headers)
        assert response.status_code == 201


def test_a_broker_that_takes_connections_and_never_answers(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many jobs are submitted, no other request waits for it, and `/readyz` not for long."""
    released = threading.Event()

    def connect(_: Celery) -> Connection:
        released.wait()
        raise BrokerDown("It never answers.")

    monkeypatch.setattr(Celery, "connection_for_write", connect)
    try:
        with server.client() as client:
            for _ in range(45):  # requests share 40 threads
                assert client.post("/v1/jobs", json={"model": "smollm2-135m-instruct"}).status_code == 201
            assert client.get("/healthz").status_code == 200
            assert len(client.get("/v1/jobs", params={"limit": 100}).json()["data"]) == 45
            ready = client.get("/readyz")
            assert (ready.status_code, ready.json()["broker"]) == (200, "unreachable")
    finally:
        released.set()


def test_a_defect_of_ours_leaks_nothing(client: TestClient, sessions: sessionmaker[Session]) -> None:
    # A stored job that no version of ours has written.
    job_id = client.post("/v1/jobs", json={"model": "smollm2-135m-instruct"}).json()["id"]
    with sessions.begin() as session:
        session.execute(update(Job).values(metadata_={"secret": ["/etc/shadow"]}))
    response = client.get(f"/v1/jobs/{job_id}")
    assert (response.status_code, code(response)) == (500, "internal-error")
    assert response.json()["reference"].startswith("req_")
    assert response.json()["reference"] in response.json()["detail"]
    for secret in ("secret", "shadow", "Traceback", "pydantic"):
        assert secret not in response.text


def test_methods(client: TestClient) -> None:
    page = client.get("/v1/methods").json()
    assert [method["id"] for method in page["data"]] == ["eggs", "sparsegpt", "ria", "wanda", "magnitude"]
    options = {method["id"]: [option["name"] for option in method["options"]] for method in page["data"]}
    assert options == {"eggs": ["effort", "min_degree"], "sparsegpt": [], "ria": [], "wanda": [], "magnitude": []}


def test_models(client: TestClient, settings: Settings) -> None:
    for name in ("mine", "broken"):
        folder = settings.model_roots[0] / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (settings.model_roots[0] / "mine" / "model.safetensors").write_bytes(b"")
    (settings.model_roots[0] / "tiny.gguf").write_bytes(b"")
    page = client.get("/v1/models").json()
    ids = [model["id"] for model in page["data"]]
    assert ids == ["smollm2-135m-instruct", "mine", "tiny.gguf"]
    assert (page["first_id"], page["last_id"]) == (ids[0], ids[-1])
    for model in ids:
        assert client.post("/v1/jobs", json={"model": model}).status_code == 201


def test_every_schema_has_a_description_and_an_example(app: FastAPI) -> None:
    schemas = app.openapi()["components"]["schemas"]
    assert len(schemas) > 20
    assert [name for name, schema in schemas.items() if not schema.get("description")] == []
    assert [name for name, schema in schemas.items() if not schema.get("examples")] == []


def test_every_operation_is_described(app: FastAPI) -> None:
    document = app.openapi()
    seen = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            seen.add(operation["operationId"])
            assert operation["summary"], where
            assert operation["description"], where
            assert operation["tags"], where
            if path.startswith("/v1"):
                assert operation["security"] == [{"ApiKey": []}, {"Session": []}], where
                for status in ("401", "422", "500", "503"):
                    assert "application/problem+json" in operation["responses"][status]["content"], where
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), (where, parameter["name"])
    assert len(seen) == sum(map(len, document["paths"].values()))


def test_every_reference_in_the_document_leads_somewhere(app: FastAPI) -> None:
    document = app.openapi()

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return own + [ref for value in node.values() for ref in references(value)]
        return [ref for value in node for ref in references(value)] if isinstance(node, list) else []

    found = references(document)
    assert found
    for reference in found:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_docs(anonymous: TestClient) -> None:
    page = anonymous.get("/docs").text
    assert "openapi.json" in page
    files = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len(files) == 3
    for file in files:
        assert file.startswith("/")  # from this server, so that the page is there without the internet too
        assert anonymous.get(file).status_code == 200
    assert anonymous.get("/openapi.json").json()["info"]["title"] == "eggs"


def test_the_api_imports_little() -> None:
    """How long it takes to start is told by how much it loads, on any machine."""
    program = "import json, sys, app.main, app.cli.main; print(json.dumps(list(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    modules = set(json.loads(ended.stdout))
    assert not modules & {"torch", "transformers", "opentelemetry.sdk", "alembic", "boto3", "redis", "numpy"}
    assert len(modules) < 1300
