"""Estimates: sizes as the model's files have them, memory and time as jobs here had them, and nothing made up."""

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.estimates import model, service
from app.examples import REPORT
from app.jobs import leases
from app.settings import Settings
from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint
from eggs_core.packing import packed_shapes
from eggs_core.pattern import NMPattern
from tests.app.build import make_job
from tests.app.conftest import RunningServer
from tests.app.test_jobs_api import code
from tests.app.test_leases import must_claim
from tests.conftest import wait_for
from tests.tiny_models import MakeModel

Sessions = sessionmaker[Session]


def succeed(sessions: Sessions, seconds: float, peak: int, project: str = "default", **spec: Any) -> None:
    """A job that has taken so much."""
    report = copy.deepcopy(REPORT)
    report["seconds"]["total"] = seconds
    report["bytes"]["peak_resident"] = peak
    report["spec"] |= {"compare": [], "accept_if": None} | spec
    report["model"]["reference"] = report["spec"]["model"]
    job_id = make_job(sessions, project, **{"model": "smollm2-135m-instruct", **spec})
    lease = must_claim(sessions, job_id)
    with sessions.begin() as session:
        leases.succeed(session, lease, report=report, artifacts=[], artifacts_dir="x")


@pytest.fixture
def folder(settings: Settings, make_model: MakeModel) -> Path:
    """A model under an allowed root."""
    folder = make_model("llama")
    settings.model_roots.append(folder.parent)
    return folder


def estimate(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/estimates", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_sizes_are_those_of_the_models_tensors(
    client: TestClient, settings: Settings, make_model: MakeModel
) -> None:
    folder = make_model("llama", num_hidden_layers=3)
    settings.model_roots.append(folder.parent)
    checkpoint = Checkpoint(folder)
    tensors = checkpoint.read(list(checkpoint.file_of))
    pruned = {name: t for name, t in tensors.items() if ".layers." in name and t.ndim == 2}
    pattern = NMPattern(1, 4)
    packed = sum(t.nbytes for name, t in tensors.items() if name not in pruned)
    for tensor in pruned.values():
        values, mask = packed_shapes((tensor.shape[0], tensor.shape[1]), pattern)
        packed += values[0] * values[1] * tensor.element_size() + mask[0] * mask[1]
    dense = sum(tensor.nbytes for tensor in tensors.values())
    found = estimate(client, model=folder.name, pattern="1:4")
    sizes = found["sizes"]
    assert (sizes["dense_bytes"], sizes["packed_bytes"], sizes["output_bytes"]) == (dense, packed, dense + packed)
    assert sizes["parameters"] == sum(tensor.numel() for tensor in tensors.values())
    kept = estimate(client, model=folder.name, pattern="1:4", ignore=["*"], output={"format": "packed"})["sizes"]
    assert kept["output_bytes"] == dense
    memory = found["memory"]
    assert memory["at_least"]
    assert max(t.nbytes for t in tensors.values()) < memory["bytes"] < dense + 32 * 1024 * 10_000
    assert found["time"]["seconds"] is None
    assert "No job with eggs:balanced has succeeded here" in found["time"]["basis"]


def test_memory_and_time_are_those_of_jobs(client: TestClient, sessions: Sessions) -> None:
    model = "smollm2-135m-instruct"
    before = estimate(client, model=model)
    assert (before["sizes"]["dense_bytes"], before["memory"]["bytes"], before["time"]["seconds"]) == (None,) * 3
    for seconds, peak in ((100, 7), (300, 9), (110, 8)):
        succeed(sessions, seconds, peak)
    succeed(sessions, 1, 1, method="ria")
    succeed(sessions, 5000, 10**12, project="another")
    found = estimate(client, model=model)
    assert found["time"] | {"basis": ""} == {"seconds": 110, "low": 100, "high": 300, "basis": ""}
    assert (found["memory"]["bytes"], found["memory"]["at_least"]) == (9, False)
    assert found["sizes"]["dense_bytes"] == REPORT["bytes"]["dense_checkpoint"]
    twice = estimate(client, model=model, seeds=2, calibration={"samples": 64})
    assert twice["time"]["seconds"] == 440
    assert twice["memory"]["bytes"] is None
    assert estimate(client, model=model, effort="best")["time"]["seconds"] is None


def test_each_figure_says_what_it_rests_on(client: TestClient, sessions: Sessions, settings: Settings) -> None:
    settings.allow_hub = True
    succeed(sessions, 100, 7)
    model = "smollm2-135m-instruct"
    assert estimate(client, model=model)["memory"]["basis"].startswith("What a job of this model took")
    succeed(sessions, 100, 7)
    found = estimate(client, model=model)
    assert found["memory"]["basis"].startswith("The most that 2 jobs of this model took")
    assert found["time"]["basis"].startswith("From 2 jobs of this model")
    found = estimate(client, model="org/on-the-hub")
    assert found["sizes"]["basis"].startswith("Known once a job of this model has succeeded")
    assert found["memory"]["basis"].startswith("No job of this model")
    assert found["time"]["basis"].startswith("Jobs of other models")


def test_jobs_that_ran_since_hide_none(client: TestClient, sessions: Sessions, settings: Settings) -> None:
    settings.allow_hub = True
    model = "smollm2-135m-instruct"
    succeed(sessions, 100, 7, effort="fast")
    for _ in range(6):
        succeed(sessions, 500, 70)
        succeed(sessions, 900, 90, model="org/another", effort="fast")
        succeed(sessions, 900, 90, model="org/another")
    found = estimate(client, model=model, effort="fast")
    assert (found["time"]["seconds"], found["memory"]["bytes"]) == (100, 7)
    assert found["time"]["basis"].startswith("From a job of this model with eggs:fast")
    assert estimate(client, model=model)["time"]["seconds"] == 500
    assert "Of the last jobs" in estimate(client, model=model, calibration={"samples": 1})["memory"]["basis"]
    of_revision = estimate(client, model="org/another", effort="fast", revision="v2")
    assert of_revision["sizes"]["dense_bytes"] is None


def test_a_pattern_that_does_not_fit_has_no_packed_size(
    client: TestClient, settings: Settings, make_model: MakeModel
) -> None:
    folder = make_model("llama")
    settings.model_roots.append(folder.parent)
    sizes = estimate(client, model=folder.name, pattern="5:7")["sizes"]
    assert sizes["dense_bytes"] > 0
    assert (sizes["packed_bytes"], sizes["output_bytes"]) == (None, None)
    assert "5:7 does not fit" in sizes["basis"]


def test_what_could_not_be_submitted_is_not_estimated(client: TestClient) -> None:
    assert code(client.post("/v1/estimates", json={"model": "not-there"})) == "model-not-found"
    assert code(client.post("/v1/estimates", json={"model": "x", "pattern": "5:4"})) == "invalid-request"
    assert client.get("/v1/jobs").json()["data"] == []


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}',
        b'{"a": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 300 + b'], "data_offsets": [0, 4]}}',
        b"[" * 100_000,
        b" " * (5 << 20),
    ],
    ids=["empty", "list", "number", "infinite", "offsets", "negative", "beyond", "nested", "large"],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_headers_that_lie(client: TestClient, settings: Settings, header: bytes) -> None:
    folder = settings.model_roots[0] / "liar"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    sizes = estimate(client, model="liar")["sizes"]
    assert sizes["dense_bytes"] is None
    assert "model.safetensors" in sizes["basis"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_more_tensors_than_are_counted(client: TestClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MOST_TENSORS", 3)
    sizes = estimate(client, model=folder.name)["sizes"]
    assert (sizes["dense_bytes"], "more than 3 tensors" in sizes["basis"]) == (None, True)


def test_estimates_that_take_long_hold_up_no_other_request(
    server: RunningServer, app: FastAPI, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = Event()

    def of_folder(_: object) -> None:
        go_on.wait()
        raise BrokenCheckpoint("Nobody knows.")

    monkeypatch.setattr(service, "of_folder", of_folder)
    with server.client() as client, ThreadPoolExecutor(45) as pool:  # requests share 40 threads
        try:
            asked = [pool.submit(client.post, "/v1/estimates", json={"model": folder.name}) for _ in range(45)]
            wait_for(lambda: app.state.estimators.statistics().tasks_waiting == 45 - 4)
            assert client.get("/v1/jobs").status_code == 200
        finally:
            go_on.set()
        assert {answer.result().status_code for answer in asked} == {200}
