"""Wrong input: each kind is refused with a problem that says what to do, and nothing is stored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings
from tests.app.test_jobs_api import BODY, code


def submit(client: TestClient, **fields: Any) -> dict[str, Any]:
    """The problem that this request is answered with."""
    response = client.post("/v1/jobs", json={**BODY, **fields})
    assert response.status_code in (403, 422)
    code(response)
    assert client.get("/v1/jobs").json()["data"] == []
    document: dict[str, Any] = response.json()
    return document


def kind(problem: dict[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:eggs:problem:")


@pytest.mark.parametrize(
    ("fields", "pointer", "message"),
    [
        (
            {"pattern": "2-4"},
            "/pattern",
            "'2-4' is not an N:M pattern. Write two numbers and a colon, such as 2:4.",
        ),
        ({"pattern": "5:4"}, "/pattern", "it must keep at least 1 and at most M of every M"),
        ({"pattern": 24}, "/pattern", 'Write it as a string, such as "2:4".'),
        ({"method": "obd"}, "/method", "Input should be 'eggs', 'sparsegpt', 'ria', 'wanda' or 'magnitude'."),
        ({"evaluation": {"source": "pydocs"}}, "/evaluation/source", "There is no such field."),
        ({"evaluation": {"sources": []}}, "/evaluation/sources", "There should be 1 at least."),
        (
            {"evaluation": {"sources": [f"file:{i}" for i in range(17)]}},
            "/evaluation/sources",
            "There should be 16 at most.",
        ),
        (
            {"evaluation": {"sources": ["pydocs", " pydocs"]}},
            "/evaluation/sources",
            "pydocs is given twice. Leave one out.",
        ),
        ({"seeds": 0}, "/seeds", "greater than or equal to 1."),
        ({"seeds": 17}, "/seeds", "less than or equal to 16."),
        ({"seeds": 2, "evaluation": None}, "", "Ask for one, or leave seeds out."),
        ({"compare": [{"method": "obd"}]}, "/compare/0/method", "Input should be 'eggs', 'sparsegpt', 'ria'"),
        ({"compare": [{"effort": "fast"}]}, "/compare/0/method", "This field is required."),
        ({"compare": [{"method": "ria", "permute": True}]}, "/compare/0/permute", "There is no such field."),
        (
            {"compare": [{"method": "ria", "effort": "fast"}]},
            "/compare/0",
            "effort belongs to method eggs; leave it out for method ria.",
        ),
        (
            {"compare": [{"method": "eggs", "effort": "best"}]},
            "/compare/0",
            "Compare with balanced, or ask for best",
        ),
        (
            {"compare": [{"method": "ria"}, {"method": "wanda"}, {"method": "ria"}]},
            "/compare",
            "ria is given twice. Leave one out.",
        ),
        (
            {"method": "ria", "compare": [{"method": "eggs"}, {"method": "eggs", "effort": "balanced"}]},
            "/compare",
            "eggs:balanced is given twice. Leave one out.",
        ),
        (
            {"compare": [{"method": "eggs", "effort": "balanced"}]},
            "",
            "compare has the job's own method, eggs:balanced. Leave it out of compare.",
        ),
        ({"method": "ria", "compare": [{"method": "ria"}]}, "", "compare has the job's own method, ria."),
        ({"compare": [{"method": "ria"}], "evaluation": None}, "", "Ask for some, or leave compare out."),
        ({"compare": [{"method": "ria"}] * 9}, "/compare", "There should be 8 at most."),
        ({"evaluation": {"tasks": ["piqa", "piqa"]}}, "/evaluation/tasks", "piqa is given twice. Leave one out."),
        ({"evaluation": {"tasks": [""]}}, "/evaluation/tasks/0", "at least 1 character."),
        ({"evaluation": {"task_limit": 0}}, "/evaluation/task_limit", "greater than or equal to 1."),
        ({"evaluation": {"generations": 17}}, "/evaluation/generations", "less than or equal to 16."),
        ({"patern": "2:4"}, "/patern", "There is no such field. Check its spelling, or leave it out."),
        ({"calibration": {"sample": 3}}, "/calibration/sample", "There is no such field."),
        ({"calibration": {"samples": 0}}, "/calibration/samples", "greater than or equal to 1."),
        ({"calibration": {"sequence_length": 10**9}}, "/calibration/sequence_length", "less than or equal to"),
        (
            {"method": "ria", "min_degree": 4},
            "",
            "min_degree belongs to method eggs; leave it out for method ria.",
        ),
        ({"min_degree": -1}, "/min_degree", "Write a number of edges"),
        ({"model": ""}, "/model", "at least 1 character."),
        ({"name": "x" * 129}, "/name", "at most 128 characters."),
        ({"metadata": {str(i): "" for i in range(17)}}, "/metadata", "There should be 16 at most."),
        ({"metadata": {"a": 1}}, "/metadata/a", "valid string."),
        ({"name": "a\0b"}, "", "The request holds a NUL character (\\u0000). Remove it."),
        ({"model": "/mod\0els"}, "", "NUL character"),
        ({"metadata": {"a\0": "b"}}, "", "NUL character"),
    ],
)
def test_fields(client: TestClient, fields: dict[str, Any], pointer: str, message: str) -> None:
    problem = submit(client, **fields)
    assert kind(problem) == "invalid-request"
    (error,) = problem["errors"]
    assert error["pointer"] == pointer
    assert message in error["message"]
    assert error["message"] in problem["detail"]
    assert "Value error" not in problem["detail"]


def test_a_missing_model(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={})
    assert (response.status_code, code(response)) == (422, "invalid-request")
    assert response.json()["errors"] == [{"pointer": "/model", "message": "This field is required."}]


@pytest.mark.parametrize("body", ["{", "\\", '{"model": "a",}', "model=a"])
def test_a_body_that_is_no_json(client: TestClient, body: str) -> None:
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, code(response)) == (400, "unreadable-body")
    assert "It is not JSON: " in response.json()["detail"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain"])
def test_json_under_another_type(client: TestClient, kind: str) -> None:
    """As `curl -d` sends it."""
    response = client.post("/v1/jobs", content=json.dumps(BODY), headers={"Content-Type": kind})
    assert (response.status_code, code(response)) == (415, "unsupported-media-type")
    assert "Content-Type: application/json" in response.json()["detail"]


@pytest.mark.parametrize("body", ["", "[]", '"text"', "null"])
def test_a_body_that_is_no_object(client: TestClient, body: str) -> None:
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, code(response)) == (422, "invalid-request")


def test_a_body_that_is_too_large(client: TestClient) -> None:
    response = client.post("/v1/jobs", json={**BODY, "name": "x" * (1 << 20)})
    assert (response.status_code, code(response)) == (413, "content-too-large")


def test_a_body_with_a_lone_surrogate(client: TestClient) -> None:
    body = json.dumps({**BODY, "name": "\ud800"})
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, code(response)) == (422, "invalid-request")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "after=nonsense", "after=%00", "state=lost"])
def test_queries_on_jobs(client: TestClient, query: str) -> None:
    response = client.get(f"/v1/jobs?{query}")
    assert (response.status_code, code(response)) == (422, "invalid-request")
    assert response.json()["errors"][0]["parameter"] == query.partition("=")[0]


def test_queries_on_events(client: TestClient) -> None:
    job_id = client.post("/v1/jobs", json=BODY).json()["id"]
    for query in ("after=-1", "after=99999999999", "limit=0"):
        assert client.get(f"/v1/jobs/{job_id}/events?{query}").status_code == 422
    headers = {"Last-Event-ID": "x", "Accept": "text/event-stream"}
    response = client.get(f"/v1/jobs/{job_id}/events", headers=headers)
    assert response.json()["errors"][0]["parameter"] == "Last-Event-ID"


def test_an_idempotency_key_that_is_too_long(client: TestClient) -> None:
    response = client.post("/v1/jobs", json=BODY, headers={"Idempotency-Key": "x" * 256})
    assert (response.status_code, code(response)) == (422, "invalid-request")


def test_an_unknown_model(client: TestClient) -> None:
    problem = submit(client, model="gpt-5")
    assert kind(problem) == "model-not-found"
    assert "GET /v1/models" in problem["detail"]


def test_a_hub_model_where_the_hub_is_off(client: TestClient) -> None:
    problem = submit(client, model="Qwen/Qwen3-0.6B")
    assert kind(problem) == "model-not-found"
    assert "does not use" in problem["detail"]


def test_a_model_outside_the_roots(client: TestClient, settings: Settings, tmp_path: Path) -> None:
    link = settings.model_roots[0] / "link"
    link.symlink_to("/etc")
    for path in ("/etc", f"{settings.model_roots[0]}/../..", str(link), "/"):
        problem = submit(client, model=path)
        assert (kind(problem), problem["status"]) == ("model-not-allowed", 403)
        assert "EGGS_MODEL_ROOTS" in problem["detail"]


def test_a_model_whose_files_lie_outside_the_roots(client: TestClient, settings: Settings) -> None:
    folder = settings.model_roots[0] / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "LICENSE").symlink_to("/etc/passwd")
    problem = submit(client, model="model")
    assert (kind(problem), problem["status"]) == ("model-not-allowed", 403)
    assert "LICENSE is a link" in problem["detail"]
    assert "/etc" not in problem["detail"]
    assert "model" not in {model["id"] for model in client.get("/v1/models").json()["data"]}


def test_a_model_that_is_not_there(client: TestClient, settings: Settings) -> None:
    assert kind(submit(client, model=str(settings.model_roots[0] / "missing"))) == "model-not-found"


def test_a_limit_without_end(client: TestClient) -> None:
    body = json.dumps({**BODY, "accept_if": {"perplexity_ratio": "HERE"}}).replace('"HERE"', "1e999")
    response = client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    assert code(response) == "invalid-request"
    assert response.json()["detail"] == "accept_if.perplexity_ratio: Input should be a finite number."


def test_a_pickled_checkpoint(client: TestClient, settings: Settings) -> None:
    folder = settings.model_roots[0] / "old"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    problem = submit(client, model=str(folder))
    assert kind(problem) == "unsafe-checkpoint"
    assert "safe_serialization=True" in problem["detail"]


@pytest.mark.parametrize(
    ("use", "named"),
    [
        ("calibration", lambda source: {"source": source}),
        ("evaluation", lambda source: {"sources": ["pydocs", source]}),
    ],
)
def test_texts(client: TestClient, settings: Settings, use: str, named: Callable[[str], dict[str, Any]]) -> None:
    for source, message in (
        ("wikitext", "Use pydocs, file:PATH or hub:ORG/NAME."),
        ("file:/etc/passwd", "EGGS_TEXT_ROOTS"),
        (f"file:{settings.text_roots[0]}/missing.txt", "Give an existing"),
        ("hub:Salesforce/wikitext", "does not use"),
    ):
        problem = submit(client, **{use: named(source)})
        assert kind(problem) == "text-not-found"
        assert message in problem["detail"]


def test_tasks(client: TestClient, settings: Settings) -> None:
    outside = settings.data_dir / "outside.yaml"
    outside.write_text("task: outside")
    for task, message in (
        ("hella swag", "is not a task"),
        ("hellaswag", "does not use"),
        (f"file:{outside}", "EGGS_TASK_ROOTS"),
        ("file:../outside.yaml", "EGGS_TASK_ROOTS"),
        ("file:missing.yaml", "Give an existing .yaml file"),
    ):
        problem = submit(client, evaluation={"tasks": [task]})
        assert kind(problem) == "task-not-found"
        assert message in problem["detail"]


NO_PATHS = ["~", "~nosuchuser", "~/x", "x" * 300, "models/" + "x" * 300, "a/../b", "loop", "loop/x", "a b\n"]


@pytest.mark.parametrize("path", NO_PATHS)
def test_what_is_no_path_here(client: TestClient, settings: Settings, path: str) -> None:
    for root in (*settings.model_roots, *settings.text_roots):
        (root / "loop").symlink_to("loop")
    for problem, expected in (
        (submit(client, model=path), "model-not-found"),
        (submit(client, model=str(settings.model_roots[0] / path)), "model-not-found"),
        (submit(client, calibration={"source": f"file:{path}"}), "text-not-found"),
        (submit(client, calibration={"source": f"file:{settings.text_roots[0] / path}"}), "text-not-found"),
    ):
        assert kind(problem) == expected
        assert str(Path.home()) not in problem["detail"]


def test_a_way_out_of_the_roots_is_told_as_it_was_given(client: TestClient, settings: Settings) -> None:
    for root in (*settings.model_roots, *settings.text_roots):
        (root / "link").symlink_to("/etc")
    for path in ("..", "../models/../..", "link", "link/passwd"):
        for problem in (submit(client, model=path), submit(client, calibration={"source": f"file:{path}"})):
            assert kind(problem) in ("model-not-allowed", "text-not-found")
            assert f"{path} is outside the folders" in problem["detail"]
            assert str(settings.data_dir) not in problem["detail"]
            assert "/etc" not in problem["detail"]


@pytest.mark.parametrize("source", ["a", "a/b/", "a/b/../../x", "a/b/./x.txt", "a/b//x.txt", "../b", "a/b/x\\y"])
def test_what_is_no_hub_data_set(client: TestClient, source: str) -> None:
    problem = submit(client, calibration={"source": f"hub:{source}"})
    assert kind(problem) == "text-not-found"
    assert "Write hub:ORG/NAME" in problem["detail"]


@pytest.mark.parametrize("file", ["README.md", "data/train.csv", "train.json", "train.jsonl.gz", "train"])
def test_a_file_of_a_hub_data_set_that_is_no_text(client: TestClient, file: str) -> None:
    problem = submit(client, calibration={"source": f"hub:a/b/{file}"})
    assert kind(problem) == "text-not-found"
    assert "Give a .txt, .jsonl or .parquet file." in problem["detail"]


def test_paths_that_are_not_there_and_methods_that_are_not_meant(client: TestClient) -> None:
    nowhere = client.get("/v1/nowhere")
    assert (nowhere.status_code, code(nowhere)) == (404, "not-found")
    for path, allowed in {
        "/v1/jobs": "GET, POST",
        "/v1/jobs/job_1": "GET",
        "/v1/session": "GET, POST, DELETE",
        "/v1/webhooks/webhook_1": "GET, PATCH, DELETE",
        "/v1/files/file_1/content": "GET, HEAD",
        "/openapi.json": "GET, HEAD",
    }.items():
        wrong = client.put(path, json={})
        assert (wrong.status_code, code(wrong)) == (405, "method-not-allowed")
        assert wrong.headers["allow"] == allowed


def test_a_key_that_s3_would_not_keep(client: TestClient, settings: Settings) -> None:
    settings.s3_roots.append("s3://models")
    assert "1024 bytes at most" in submit(client, model="s3://models/" + "ä" * 513)["detail"]


@pytest.mark.parametrize(
    "path", ["/v1/jobs", "/v1/sweeps", "/v1/workers", "/v1/jobs/job_00000000000000000000000000/events"]
)
def test_a_misspelt_parameter_is_no_list_of_all(client: TestClient, path: str) -> None:
    response = client.get(
        path, params={"limit": 1, "stat": "failed"} if path != "/v1/workers" else {"stat": "failed"}
    )
    assert response.status_code == 422
    assert response.json()["errors"] == [
        {"parameter": "stat", "message": "There is no such parameter. Check its spelling, or leave it out."}
    ]


def test_metadata_are_filters_of_any_name(client: TestClient) -> None:
    assert client.get("/v1/jobs", params={"metadata.team": "research"}).status_code == 200
    assert client.get("/v1/jobs", params={"metadatateam": "research"}).status_code == 422
