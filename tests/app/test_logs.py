"""The log of a running server: one line each, in one form, and each line of a request with its id."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import update
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from tests.app.test_serve import Service, Start, start

__all__ = ["start"]

BODY = {"model": "smollm2-135m-instruct"}
EVIL = [
    "a\r\n2026-05-04T09:21:07.512+00:00 INFO app: forged",
    "a\x1b[2Kb",
    "a\u2028b",
    "a\x85b",
    "\u202eb",
    '"}\n{"',
]
# For people, on standard output.
OF_THE_CONSOLE = re.compile(r"API key, shown only this once: |The service is at ")


def json_lines(service: Service) -> list[dict[str, Any]]:
    """Every line of the log."""
    return [json.loads(line) for line in service.output.splitlines() if not OF_THE_CONSOLE.match(line)]


def submit(service: Service, request_id: str) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.key}", "X-Request-ID": request_id}
    answer = httpx.post(f"{service.url}/v1/jobs", json=BODY, headers=headers, timeout=60)
    assert answer.status_code == 201, answer.text
    return answer


def test_each_line_of_a_request_has_its_id(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGGS_LOG_FORMAT", "json")
    service = start("--no-worker")
    ids = [f"request-{number}" for number in range(20)]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda request_id: submit(service, request_id), ids))
    assert [answer.headers["x-request-id"] for answer in answers] == ids
    service.process.terminate()
    assert service.process.wait(60) == 0

    lines = json_lines(service)
    assert {"app.jobs.endpoints", "uvicorn.access", "uvicorn.error"} <= {line["logger"] for line in lines}
    for line in lines:
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None
        assert line["level"] == "INFO"
    submitted = {line["request_id"]: line["job_id"] for line in lines if line["message"] == "Submitted"}
    assert submitted == {request_id: answer.json()["id"] for request_id, answer in zip(ids, answers, strict=True)}
    posts = [line["request_id"] for line in lines if "POST /v1/jobs" in line["message"]]
    assert sorted(posts) == sorted(ids)


def test_text_is_the_default(start: Start) -> None:
    service = start("--no-worker")
    job_id = submit(service, "my-id").json()["id"]
    service.process.terminate()
    assert service.process.wait(60) == 0
    lines = [line for line in service.output.splitlines() if not OF_THE_CONSOLE.match(line)]
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00 INFO [a-z.]+", line)
    assert any(line.endswith(f" app.jobs.endpoints request_id=my-id job_id={job_id}: Submitted") for line in lines)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_text_can_forge_a_line(form: str) -> None:
    program = """
import json, logging, sys
from app import logs
logs.setup(sys.argv[1])
for text in json.loads(sys.argv[2]):
    try:
        raise ValueError(text)
    except ValueError:
        logging.getLogger("a").exception("It says %s", text)
"""
    command = [sys.executable, "-c", program, form, json.dumps(EVIL)]
    written = subprocess.run(command, capture_output=True, check=True).stderr.decode()
    lines = written.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    if form == "json":
        records = [json.loads(line) for line in lines]
        assert [record["message"] for record in records] == [f"It says {text}" for text in EVIL]
        assert all("Traceback" in record["exception"] for record in records)
    else:
        records = [line for line in lines if not line.startswith("    ")]
        assert len(records) == len(EVIL)
        assert all(" ERROR a: It says " in record for record in records)


@pytest.mark.parametrize("given", ["", "a b", 'a"}', "x" * 65, "a/b", b"\xc3\xa9", "a\tb"])
def test_an_id_that_is_not_sane_is_replaced(anonymous: TestClient, given: str | bytes) -> None:
    answer = anonymous.get("/healthz", headers={"X-Request-ID": given})
    assert re.fullmatch(r"req_[0-9a-z]{26}", answer.headers["x-request-id"])


def test_every_error_has_the_id(client: TestClient, sessions: sessionmaker[Session]) -> None:
    headers = {"X-Request-ID": "one.of-mine_1"}
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    with sessions.begin() as session:  # as no version of ours has stored it
        session.execute(update(Job).values(metadata_={"secret": ["x"]}))
    answers = [
        client.get("/v1/jobs", headers=headers | {"Authorization": "Bearer nobody"}),
        client.get("/v1/nothing", headers=headers),
        client.post("/v1/jobs", content=b" " * (2 << 20), headers=headers),
        client.get(f"/v1/jobs/{job_id}", headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [401, 404, 413, 500]
    for answer in answers:
        assert answer.headers["x-request-id"] == "one.of-mine_1"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert answers[-1].json()["reference"] == "one.of-mine_1"


def test_a_defect_is_logged_once_with_the_id_of_its_request(
    client: TestClient, sessions: sessionmaker[Session], caplog: pytest.LogCaptureFixture
) -> None:
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    with sessions.begin() as session:
        session.execute(update(Job).values(metadata_={"secret": ["x"]}))
    assert client.get(f"/v1/jobs/{job_id}").status_code == 500
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "app.problem_handlers"
    assert record.exc_info is not None
