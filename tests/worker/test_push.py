"""Jobs that push their model to the Hugging Face Hub: the real client, and a server that speaks its protocol."""

import logging
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.orm import Session, sessionmaker

from app.db import Base
from app.main import create_app
from app.settings import Settings
from tests.app.build import events_of, make_key, read_job
from tests.app.test_jobs_api import code
from tests.conftest import files_of
from tests.hub import READ_TOKEN, WRITE_TOKEN, HubServer, hub
from tests.tiny_models import MakeModel
from tests.worker.test_retries import end_pause
from worker.runner import run_job, run_next

__all__ = ["hub"]

Sessions = sessionmaker[Session]
SHORT = {"samples": 2, "sequence_length": 32}
PUSH = {"repo_id": "acme/tiny-2of4", "private": True, "revision": "main"}
# One database where only the Hub is at issue.
ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def api(settings: Settings, sessions: Sessions) -> TestClient:
    """The service, not running: nothing but requests happens."""
    settings.allow_hub = True
    client = TestClient(create_app(settings), raise_server_exceptions=False)
    client.headers["Authorization"] = f"Bearer {make_key(sessions)[1]}"
    return client


@pytest.fixture
def request_body(settings: Settings, make_model: MakeModel) -> dict[str, Any]:
    model = make_model("llama")
    settings.model_roots = [model.parent]
    output = {"format": "both", "push_to_hub": PUSH}
    return {"model": str(model), "calibration": SHORT, "evaluation": None, "output": output}


def submitted(api: TestClient, body: dict[str, Any]) -> str:
    response = api.post("/v1/jobs", json=body)
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def stored(sessions: Sessions) -> str:
    """Everything that the database has."""
    with sessions() as session:
        rows = [session.execute(text(f"SELECT * FROM {table}")).all() for table in Base.metadata.tables]
    return str(rows)


def test_a_job_is_pushed_and_its_token_told_to_nobody(
    api: TestClient,
    settings: Settings,
    sessions: Sessions,
    request_body: dict[str, Any],
    hub: HubServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    job_id = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
    waiting = api.get(f"/v1/jobs/{job_id}")
    assert waiting.json()["push_to_hub"] == PUSH | {"commit": None, "url": None, "error": None}
    assert read_job(sessions, job_id).hub_token is not None
    assert WRITE_TOKEN not in stored(sessions) + waiting.text

    run_job(job_id, settings, sessions, Event())
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "succeeded", job["error"]
    repository = hub.repositories["acme/tiny-2of4"]
    assert repository.private
    (commit,) = repository.commits
    url = f"{hub.url}/acme/tiny-2of4/commit/{commit}"
    assert job["push_to_hub"] == PUSH | {"commit": commit, "url": url, "error": None}
    folder = settings.artifacts_dir / str(read_job(sessions, job_id).artifacts_dir)
    pushed = repository.branches["main"]
    assert set(pushed) == files_of(folder)
    assert all((folder / name).read_bytes() == content for name, content in pushed.items())

    assert read_job(sessions, job_id).hub_token is None, "it is not forgotten"
    for told in (stored(sessions), caplog.text, *(path.read_text() for path in _texts(settings.data_dir))):
        assert WRITE_TOKEN not in told
    events = api.get(f"/v1/jobs/{job_id}/events?limit=100").json()["data"]
    assert [event["stage"] for event in events if event["type"] == "job.progress"][-1] == "push"


def _texts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".json", ".md", ".log", ".txt")]


@ON_ONE
def test_another_branch_and_the_token_of_the_service(
    api: TestClient, settings: Settings, sessions: Sessions, request_body: dict[str, Any], hub: HubServer
) -> None:
    settings.hub_token = SecretStr(WRITE_TOKEN)
    request_body["output"]["push_to_hub"] = PUSH | {"revision": "runs/2of4", "private": False}
    job_id = submitted(api, request_body)
    run_job(job_id, settings, sessions, Event())
    assert read_job(sessions, job_id).state == "succeeded"
    repository = hub.repositories["acme/tiny-2of4"]
    assert not repository.private
    assert repository.branches["main"] == {}
    assert "model.safetensors.index.json" in repository.branches["runs/2of4"]


@ON_ONE
@pytest.mark.parametrize("token", [READ_TOKEN, "hf_of_nobody"])
@pytest.mark.parametrize("exists", [False, True])
def test_a_token_that_may_not_push_costs_no_work(
    api: TestClient,
    settings: Settings,
    sessions: Sessions,
    request_body: dict[str, Any],
    hub: HubServer,
    token: str,
    exists: bool,
) -> None:
    if exists:
        other = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
        run_job(other, settings, sessions, Event())
    job_id = submitted(api, request_body | {"hub_token": token})
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.state == "failed"
    assert job.error is not None
    assert (job.error["type"], job.error["status"]) == ("urn:eggs:problem:push-refused", 422)
    assert "the token may write there" in job.error["detail"]
    assert job.hub_token is None
    assert not any(event.type == "job.progress" for event in events_of(sessions, job_id))


@ON_ONE
def test_a_push_that_breaks_off_is_repeated_without_what_is_there(
    api: TestClient, settings: Settings, sessions: Sessions, request_body: dict[str, Any], hub: HubServer
) -> None:
    def fail_at_the_commit(method: str, path: str) -> int | None:
        return 502 if "/commit/" in path else None

    hub.fault = fail_at_the_commit
    job_id = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.stage, job.retries) == ("queued", "push", 1)
    assert job.hub_token is not None
    assert hub.repositories["acme/tiny-2of4"].branches["main"] == {}
    sent = hub.uploads()
    assert sent > 1

    hub.fault = lambda method, path: None
    end_pause(sessions, job_id)
    run_next(settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert (job.state, job.attempt) == ("succeeded", 2)
    assert hub.uploads() == sent, "a file was sent again"
    assert "README.md" in hub.repositories["acme/tiny-2of4"].branches["main"]
    pruned = [event for event in events_of(sessions, job_id) if event.stage == "prune" and "block" in event.data]
    assert len(pruned) == 2, "a finished block was pruned again"


@ON_ONE
@pytest.mark.parametrize(("status", "problem"), [(403, "push-refused"), (503, "hub-unavailable")])
def test_a_push_that_fails_for_good_does_not_cost_the_result(
    api: TestClient,
    settings: Settings,
    sessions: Sessions,
    request_body: dict[str, Any],
    hub: HubServer,
    status: int,
    problem: str,
) -> None:
    settings.max_retries = 0
    hub.fault = lambda method, path: status if "/commit/" in path else None
    job_id = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
    run_job(job_id, settings, sessions, Event())
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert (job["state"], job["error"]) == ("succeeded", None)
    assert job["push_to_hub"]["commit"] is None
    assert job["push_to_hub"]["error"]["type"] == f"urn:eggs:problem:{problem}"
    assert events_of(sessions, job_id)[-1].data["push_to_hub"]["error"]["type"].endswith(problem)
    artifact = api.get(f"/v1/jobs/{job_id}/artifacts").json()["data"][0]
    assert api.get(artifact["url"]).status_code == 200


@ON_ONE
def test_a_card_that_the_hub_refuses_is_no_hub_that_is_away(
    api: TestClient, settings: Settings, sessions: Sessions, request_body: dict[str, Any], hub: HubServer
) -> None:
    hub.fault = lambda method, path: 400 if path == "/api/validate-yaml" else None
    job_id = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
    run_job(job_id, settings, sessions, Event())
    job = api.get(f"/v1/jobs/{job_id}").json()
    assert job["state"] == "succeeded"
    assert job["push_to_hub"]["error"]["type"] == "urn:eggs:problem:push-refused"
    assert "refuses the model card" in job["push_to_hub"]["error"]["detail"]


@ON_ONE
def test_a_worker_with_another_secret_key_says_so(
    api: TestClient, settings: Settings, sessions: Sessions, request_body: dict[str, Any], hub: HubServer
) -> None:
    job_id = submitted(api, request_body | {"hub_token": WRITE_TOKEN})
    (settings.data_dir / "secret.key").unlink()
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.error is not None
    assert "another EGGS_SECRET_KEY" in job.error["detail"]


@ON_ONE
@pytest.mark.parametrize(
    ("change", "status", "problem"),
    [
        ({}, 422, "hub-token-missing"),
        ({"output": {}, "hub_token": "hf_x"}, 422, "invalid-request"),
        ({"output": {"push_to_hub": {"repo_id": "no-owner"}}, "hub_token": "hf_x"}, 422, "invalid-request"),
        ({"output": {"push_to_hub": {"repo_id": "a/../b"}}, "hub_token": "hf_x"}, 422, "invalid-request"),
        ({"output": {"push_to_hub": PUSH | {"revision": "a..b"}}, "hub_token": "hf_x"}, 422, "invalid-request"),
        ({"output": {"push_to_hub": PUSH | {"token": "hf_x"}}}, 422, "invalid-request"),
    ],
)
def test_what_is_refused_at_once(
    api: TestClient, request_body: dict[str, Any], change: dict[str, Any], status: int, problem: str
) -> None:
    response = api.post("/v1/jobs", json=request_body | change)
    assert (response.status_code, code(response)) == (status, problem)
    assert "hf_x" not in response.text


@ON_ONE
def test_an_installation_without_the_hub_pushes_nothing(
    api: TestClient, settings: Settings, request_body: dict[str, Any]
) -> None:
    settings.allow_hub = False
    response = api.post("/v1/jobs", json=request_body | {"hub_token": "hf_x"})
    assert (response.status_code, code(response)) == (422, "hub-not-used")
