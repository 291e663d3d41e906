"""What Prometheus is told: requests as they came, and jobs as the database has them."""

from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app import metrics
from app.db import utcnow
from app.jobs import leases
from app.jobs.models import Job, JobEvent, JobState
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
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
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
    failed = {labels[0]: value for (name, *labels), value in found.items() if name == "eggs_failed_jobs"}
    assert failed == {"no-space": 1, "internal-error": 0, "worker-lost": 0}, "alerts see the first of these rise"
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


def buckets(found: dict[tuple[str, ...], float], name: str, *labels: str) -> dict[float, float]:
    """A histogram: how many took up to each of its bounds."""
    of_them = {frozenset(key[1:]) - {*labels}: value for key, value in found.items() if key[0] == f"{name}_bucket"}
    return {float(*bound): value for bound, value in of_them.items() if len(bound) == 1}


def test_times_in_a_state_are_told_as_histograms(app: FastAPI, sessions: Sessions) -> None:
    """Of what the database has, so that every replica tells the same."""
    now = utcnow()
    times = [  # submitted, started, ended so many seconds ago
        (JobState.SUCCEEDED, 500, 499.5, 479.5),
        (JobState.SUCCEEDED, 5000, 4980, 1000),
        (JobState.FAILED, 200_000, 100_000, 10),
        (JobState.RUNNING, 100, 95, None),
        (JobState.CANCELLED, 100, None, 50),
        (JobState.QUEUED, 100, None, None),
    ]
    for state, *moments in times:
        job_id = make_job(sessions)
        created, started, finished = (None if ago is None else now - timedelta(seconds=ago) for ago in moments)
        with sessions.begin() as session:
            job = session.get_one(Job, job_id)
            job.state, job.started_at, job.finished_at = state, started, finished
            job.created_at = created or now
            job.error = {"type": "urn:eggs:problem:no-space"} if state is JobState.FAILED else None
    found = scrape(app.state.metrics)
    queued = buckets(found, "eggs_job_queued_seconds")
    assert (queued[1], queued[10], queued[60], queued[86_400], queued[float("inf")]) == (1, 2, 3, 3, 4)
    assert found["eggs_job_queued_seconds_count",] == 4
    assert found["eggs_job_queued_seconds_sum",] == pytest.approx(0.5 + 20 + 100_000 + 5, abs=0.01)
    succeeded = buckets(found, "eggs_job_running_seconds", "succeeded")
    assert (succeeded[10], succeeded[60], succeeded[3600], succeeded[14_400]) == (0, 1, 1, 2)
    assert found["eggs_job_running_seconds_sum", "succeeded"] == pytest.approx(20 + 3980, abs=0.01)
    assert found["eggs_job_running_seconds_count", "failed"] == 1
    assert found["eggs_job_running_seconds_count", "cancelled"] == 0
    assert found["eggs_longest_running_seconds",] == pytest.approx(95, abs=30)
    other = scrape(create_app(app.state.settings).state.metrics)
    of_jobs = [key for key in found if key[0].startswith("eggs_job_")]
    assert [other[key] for key in of_jobs] == [found[key] for key in of_jobs]


def test_blocks_are_counted_where_they_were_pruned_recently(app: FastAPI, sessions: Sessions) -> None:
    runs = must_claim(sessions, make_job(sessions))
    ended = must_claim(sessions, make_job(sessions))
    with sessions.begin() as session:
        for lease, stage, blocks in ((runs, "evaluate_dense", 3), (runs, "prune", 4), (ended, "prune", 2)):
            for block in range(blocks):
                leases.record_progress(session, lease, progress=0.1, stage=stage, data={"block": block})
        leases.fail(session, ended, {"type": "urn:eggs:problem:no-space"})
    assert scrape(app.state.metrics)["eggs_blocks_per_second",] == pytest.approx(6 / 300)
    with sessions.begin() as session:
        long_ago = utcnow() - timedelta(minutes=6)
        session.execute(update(JobEvent).where(JobEvent.job_id == runs.job_id).values(created_at=long_ago))
    assert scrape(app.state.metrics)["eggs_blocks_per_second",] == pytest.approx(2 / 300)
