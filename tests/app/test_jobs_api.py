"""Jobs over HTTP: submission, idempotency, listing, cancelling, events, report."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from fastapi.testclient import TestClient
from httpx import Response
from pydantic import BaseModel
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app.examples import REPORT
from app.idempotency import _fingerprint
from app.jobs import leases
from app.jobs.leases import NewArtifact
from app.jobs.models import Job
from app.queue import make_celery, waiting_messages
from app.settings import Settings
from eggs_core.report import Report
from tests.app.build import make_job, make_key
from tests.app.test_leases import must_claim

Sessions = sessionmaker[Session]
BODY = {"model": "smollm2-135m-instruct"}


def finish(sessions: Sessions, job_id: str) -> None:
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=[], artifacts_dir=job_id)


def code(response: Response) -> str:
    assert response.headers["content-type"] == "application/problem+json"
    document = response.json()
    assert document["status"] == response.status_code
    return str(document["type"]).removeprefix("urn:eggs:problem:")


def test_a_submitted_job_is_queued_and_the_bell_rung(client: TestClient, settings: Settings) -> None:
    response = client.post("/v1/jobs", json={**BODY, "name": "mine", "metadata": {"a": "b"}, "pattern": "4:8"})
    assert response.status_code == 201
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["object"] == "job"
    assert (job["name"], job["metadata"], job["state"], job["progress"]) == ("mine", {"a": "b"}, "queued", 0)
    assert job["spec"]["pattern"] == "4:8"
    assert job["spec"]["calibration"] == {
        "source": "pydocs",
        "text_field": "text",
        "sequence_length": 1024,
        "samples": 32,
        "seed": 0,
    }
    assert datetime.fromisoformat(job["created_at"]).tzinfo == UTC
    assert client.get(response.headers["location"]).json() == job
    assert waiting_messages(make_celery(settings)) == 1


def test_a_job_whose_request_no_longer_holds_can_still_be_read(client: TestClient, sessions: Sessions) -> None:
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    other = {"model": "tiny", "sparsity": 0.5}  # as a version with other fields might have stored it
    with sessions.begin() as session:
        session.execute(update(Job).values(spec=other))
        assert leases.claim(session, job_id, 60, max_attempts=3, most_running=None) is None
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert (job["spec"], job["state"], job["error"]["status"]) == (other, "failed", 422)
    assert client.get("/v1/jobs").json()["data"] == [job]


def test_the_links_of_a_job_lead_somewhere(client: TestClient, sessions: Sessions) -> None:
    job = client.post("/v1/jobs", json=BODY).json()
    finish(sessions, job["id"])
    assert set(job["links"]) == {"self", "events", "report", "artifacts", "lineage"}
    assert {client.get(link).status_code for link in job["links"].values()} == {200}


def test_the_same_idempotency_key_gives_the_same_job(client: TestClient, settings: Settings) -> None:
    headers = {"Idempotency-Key": "once"}
    first = client.post("/v1/jobs", json=BODY, headers=headers)
    again = client.post("/v1/jobs", json={**BODY, "pattern": "2:4"}, headers=headers)  # the default, written out
    assert (first.status_code, again.status_code) == (201, 201)
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert again.json() == first.json()
    assert len(client.get("/v1/jobs").json()["data"]) == 1
    assert waiting_messages(make_celery(settings)) == 1


def test_an_idempotency_key_is_not_for_another_request(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    client.post("/v1/jobs", json=BODY, headers=headers)
    other = client.post("/v1/jobs", json={**BODY, "pattern": "4:8"}, headers=headers)
    assert other.status_code == 422
    assert code(other) == "idempotency-key-reused"
    assert "Use a new key" in other.json()["detail"]


def test_a_request_with_another_token_is_another_request(client: TestClient, settings: Settings) -> None:
    settings.allow_hub = True
    push = {"output": {"push_to_hub": {"repo_id": "acme/tiny"}}}

    def submit(token: str) -> Response:
        return client.post(
            "/v1/jobs", json=BODY | push | {"hub_token": token}, headers={"Idempotency-Key": "once"}
        )

    first, again, other = submit("hf_mine"), submit("hf_mine"), submit("hf_theirs")
    assert (first.status_code, again.json()["id"]) == (201, first.json()["id"])
    assert (other.status_code, code(other)) == (422, "idempotency-key-reused")


def test_a_request_stays_the_same_where_the_next_version_takes_more() -> None:
    class Older(BaseModel):
        model: str
        pattern: str = "2:4"

    class Newer(Older):
        layers: int | None = None

    older, newer = (_fingerprint(body(model="m"), "") for body in (Older, Newer))
    assert older == newer


def test_an_idempotency_key_belongs_to_its_project(client: TestClient, sessions: Sessions) -> None:
    headers = {"Idempotency-Key": "once"}
    mine = client.post("/v1/jobs", json=BODY, headers=headers).json()
    foreign = {**headers, "Authorization": f"Bearer {make_key(sessions, 'other')[1]}"}
    theirs = client.post("/v1/jobs", json={**BODY, "pattern": "4:8"}, headers=foreign)
    assert theirs.status_code == 201
    assert theirs.json()["id"] != mine["id"]


def test_the_same_request_sent_many_times_at_once_makes_one_job(client: TestClient, settings: Settings) -> None:
    settings.max_queued_per_key = 1  # and none of them is one too many

    def submit(_: int) -> tuple[int, str]:
        response = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "race"})
        return response.status_code, response.json()["id"]

    with ThreadPoolExecutor(12) as pool:
        answers = set(pool.map(submit, range(24)))
    assert len(answers) == 1
    assert answers.pop()[0] == 201
    assert len(client.get("/v1/jobs").json()["data"]) == 1


def test_a_refused_request_leaves_nothing_behind(client: TestClient) -> None:
    headers = {"Idempotency-Key": "once"}
    refused = client.post("/v1/jobs", json={"model": "no such model"}, headers=headers)
    assert refused.status_code == 422
    assert client.get("/v1/jobs").json()["data"] == []
    assert client.post("/v1/jobs", json=BODY, headers=headers).status_code == 201


def test_pages_of_jobs_newest_first(client: TestClient, sessions: Sessions) -> None:
    made = [make_job(sessions) for _ in range(5)]
    seen, after = [], ""
    for expected_more in (True, True, False):
        page = client.get(f"/v1/jobs?limit=2{after}").json()
        ids = [job["id"] for job in page["data"]]
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", ids[0], ids[-1])
        assert page["has_more"] is expected_more
        seen += ids
        after = f"&after={page['last_id']}"
    assert seen == made[::-1]
    empty = client.get(f"/v1/jobs?after={made[0]}").json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_jobs_of_one_state(client: TestClient, sessions: Sessions) -> None:
    queued, running = make_job(sessions), make_job(sessions)
    must_claim(sessions, running)
    for state, ids in (("queued", [queued]), ("running", [running]), ("failed", [])):
        assert [job["id"] for job in client.get(f"/v1/jobs?state={state}").json()["data"]] == ids


def test_another_projects_job_does_not_exist(client: TestClient, sessions: Sessions) -> None:
    foreign = make_job(sessions, project="other")
    finish(sessions, foreign)
    assert client.get("/v1/jobs").json()["data"] == []
    for method, path in (
        ("GET", ""),
        ("POST", "/cancel"),
        ("GET", "/events"),
        ("GET", "/report"),
        ("GET", "/artifacts"),
        ("GET", "/artifacts/report.json"),
    ):
        response = client.request(method, f"/v1/jobs/{foreign}{path}")
        assert (response.status_code, code(response)) == (404, "job-not-found"), path
    streamed = client.get(f"/v1/jobs/{foreign}/events", headers={"Accept": "text/event-stream"})
    assert streamed.status_code == 404


@pytest.mark.parametrize("job_id", ["job_00000000000000000000000000", "nonsense", "%00", "job_%F0%9F%A5%9A", "-1"])
def test_an_unknown_job(client: TestClient, job_id: str) -> None:
    response = client.get(f"/v1/jobs/{job_id}")
    assert (response.status_code, code(response)) == (404, "job-not-found")
    assert "GET /v1/jobs" in response.json()["detail"]


def test_time_left_is_estimated_while_the_job_runs(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)

    def left() -> object:
        return client.get(f"/v1/jobs/{job_id}").json()["estimated_seconds_left"]

    assert left() is None
    lease = must_claim(sessions, job_id)
    assert left() is None
    with sessions.begin() as session:
        leases.record_progress(session, lease, progress=1e-6, stage="load")
    estimate = left()
    assert isinstance(estimate, float)
    assert estimate > 0
    with sessions.begin() as session:
        leases.fail(session, lease, {"title": "no"})
    assert left() is None


def test_cancelling_a_queued_job_takes_effect_at_once(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    response = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, response.json()["state"]) == (200, "cancelled")
    assert response.json()["finished_at"] is not None
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, code(again)) == (409, "job-already-cancelled")
    assert "submit it again" in again.json()["detail"]


def test_cancelling_a_running_job_asks_its_worker(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    job = client.post(f"/v1/jobs/{job_id}/cancel").json()
    assert job["state"] == "running"
    assert job["cancel_requested_at"] is not None
    again = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (again.status_code, code(again)) == (409, "job-already-cancelled")
    assert "/events to see it end" in again.json()["detail"]
    with sessions.begin() as session:
        leases.confirm_cancelled(session, lease)
    assert client.get(f"/v1/jobs/{job_id}").json()["state"] == "cancelled"


def test_cancelling_a_job_whose_worker_is_lost_takes_effect_at_once(
    client: TestClient, sessions: Sessions
) -> None:
    job_id = make_job(sessions)
    must_claim(sessions, job_id, lease_seconds=-1)
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled"


def test_cancelling_a_finished_job_is_refused(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    finish(sessions, job_id)
    response = client.post(f"/v1/jobs/{job_id}/cancel")
    assert (response.status_code, code(response)) == (409, "job-already-finished")
    assert "succeeded" in response.json()["detail"]


def test_pages_of_events(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    lease = must_claim(sessions, job_id)
    for block in range(3):
        with sessions.begin() as session:
            leases.record_progress(session, lease, progress=block / 4, stage="prune", data={"block": block})
    page = client.get(f"/v1/jobs/{job_id}/events?limit=3").json()
    assert [event["type"] for event in page["data"]] == ["job.queued", "job.running", "job.progress"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == (1, 3, True)
    rest = client.get(f"/v1/jobs/{job_id}/events?after=3").json()
    assert [event["id"] for event in rest["data"]] == [4, 5]
    assert rest["has_more"] is False
    event = rest["data"][-1]
    assert (event["state"], event["progress"], event["stage"], event["data"]) == (
        "running",
        0.5,
        "prune",
        {"block": 2},
    )


def test_the_report_of_a_finished_job(client: TestClient, sessions: Sessions) -> None:
    Report.model_validate(REPORT)
    job_id = make_job(sessions)
    finish(sessions, job_id)
    assert client.get(f"/v1/jobs/{job_id}/report").json() == REPORT


def test_a_report_asked_for_too_early(client: TestClient, sessions: Sessions) -> None:
    job_id = make_job(sessions)
    for state in ("queued", "running"):
        response = client.get(f"/v1/jobs/{job_id}/report")
        assert (response.status_code, code(response)) == (409, "report-not-ready")
        assert response.json()["state"] == state
        assert "Ask again when its state is succeeded" in response.json()["detail"]
        if state == "queued":
            lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        leases.fail(session, lease, {"title": "no"})
    response = client.get(f"/v1/jobs/{job_id}/report")
    assert response.status_code == 409
    assert "Its `error` says why" in response.json()["detail"]


def test_the_lineage_names_what_led_to_the_checkpoint(
    client: TestClient, settings: Settings, sessions: sessionmaker[Session]
) -> None:
    job_id = make_job(sessions)
    early = client.get(f"/v1/jobs/{job_id}/lineage")
    assert (early.status_code, code(early)) == (409, "report-not-ready")
    lease = must_claim(sessions, job_id)
    files = [NewArtifact("model.safetensors", 1, "a" * 64), NewArtifact("config.json", 1, "b" * 64)]
    with sessions.begin() as session:
        leases.succeed(session, lease, report=REPORT, artifacts=files, artifacts_dir="x")
    job = client.get(f"/v1/jobs/{job_id}").json()
    lineage = client.get(job["links"]["lineage"]).json()
    assert lineage["base_model"] == REPORT["model"]
    assert lineage["calibration"]["fingerprint"] == REPORT["calibration"]["fingerprint"]
    assert [text["source"] for text in lineage["evaluation"]] == ["pydocs"]
    assert lineage["versions"] == REPORT["versions"]
    assert lineage["checkpoint"] == {"files": {"model.safetensors": "a" * 64}, "pushed_to": None}
    assert lineage["finished_at"] == job["finished_at"]


@pytest.mark.parametrize("lacking", [False, True])
def test_what_another_version_has_stored_is_told_as_far_as_it_is_known(
    client: TestClient, sessions: sessionmaker[Session], lacking: bool
) -> None:
    """While a service is updated, its workers go first."""
    job_id = make_job(sessions)
    report = REPORT | {"unknown": 1, "model": REPORT["model"] | {"unknown": 1}}
    if lacking:
        del report["calibration"]
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        session.get_one(Job, job_id).push_to_hub = {"repo_id": "acme/tiny", "unknown": 1}
        leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir="x")
    (job_of_list,) = client.get("/v1/jobs").json()["data"]
    assert job_of_list["push_to_hub"]["repo_id"] == "acme/tiny"
    lineage = client.get(f"/v1/jobs/{job_id}/lineage")
    if lacking:
        assert (lineage.status_code, code(lineage)) == (409, "report-of-another-version")
    else:
        assert lineage.json()["base_model"] == REPORT["model"]
