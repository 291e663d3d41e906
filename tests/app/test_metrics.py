"""What Prometheus is told: requests as they came, and jobs as the database has them."""

from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.orm import Session, sessionmaker

from app import metrics
from app.jobs import leases
from app.main import create_app
from app.settings import Settings
from tests.app.build import make_job
from tests.app.test_leases import must_claim
from tests.conftest import free_port

Sessions = sessionmaker[Session]


def scrape(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """Every figure as Prometheus reads it over HTTP, by its name and the values of its labels."""
    port = free_port()
    metrics.serve(registry, "127.0.0.1", port)
    text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in samples}


def test_jobs_are_counted_as_the_database_has_them(app: FastAPI, sessions: Sessions) -> None:
    for _ in range(3):
        make_job(sessions)
    with sessions.begin() as session:
        leases.fail(session, must_claim(sessions, make_job(sessions)), {"type": "urn:eggs:problem:no-space"})
    must_claim(sessions, make_job(sessions))
    found = scrape(app.state.metrics)
    states = {labels[0]: value for (name, *labels), value in found.items() if name == "eggs_jobs"}
    assert states == {"queued": 3, "running": 1, "failed": 1, "succeeded": 0, "cancelled": 0}
    assert found["eggs_failed_jobs", "no-space"] == 1
    assert found["eggs_database_up",] == 1
    assert 0 < found["eggs_oldest_queued_seconds",] < 60


def test_requests_are_counted_by_route(app: FastAPI, client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for _ in range(2):
        assert client.get(f"/v1/jobs/{job_id}").status_code == 200
    assert client.get("/v1/jobs/job_unknown").status_code == 404
    found = scrape(app.state.metrics)
    requests = {key[1:]: value for key, value in found.items() if key[0].endswith("http_requests_total")}
    of_route = {key: value for key, value in requests.items() if "/v1/jobs/{job_id}" in key}
    assert sorted(of_route.values()) == [1, 2], requests


def test_without_the_database_only_that_is_told(tmp_path: Path) -> None:
    app = create_app(Settings(data_dir=tmp_path, database_url="postgresql+psycopg://eggs@127.0.0.1:1/eggs"))
    found = scrape(app.state.metrics)
    assert found["eggs_database_up",] == 0
    assert not [name for name, *_ in found if name == "eggs_jobs"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_api_itself_tells_nobody(client: TestClient) -> None:
    assert client.get("/metrics").status_code == 404
