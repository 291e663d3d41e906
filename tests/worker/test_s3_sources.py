"""Models and texts at S3 URLs, on a real server."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.jobs.models import Job
from app.main import create_app
from app.settings import Settings
from eggs_core.errors import ModelNotFound, NoSpace, StoreUnavailable, TextNotFound
from eggs_core.s3 import make_client, model_at, text_at
from tests.app.build import make_job, make_key, read_job
from tests.app.test_jobs_api import code
from tests.conftest import files_of
from tests.object_store import Way, bucket, credentials, object_store, way
from tests.tiny_models import MakeModel
from tests.worker.test_runner import sums_of
from worker.runner import run_job

__all__ = ["bucket", "credentials", "object_store", "way"]

ON_ONE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
TEXT = "The quick brown fox jumps over the lazy dog. " * 400


@pytest.fixture
def model(make_model: MakeModel, bucket: str) -> Path:
    """A model, which the bucket has as `models/tiny`, with files that are not for loading; and a text."""
    folder = make_model("llama")
    client = make_client()
    for file in folder.iterdir():
        client.upload_file(str(file), bucket, f"models/tiny/{file.name}")
    for key in ("models/tiny/pytorch_model.bin", "models/tiny/sub/model.safetensors", "models/tiny-2/config.json"):
        client.put_object(Bucket=bucket, Key=key, Body=b"not to be fetched")
    client.put_object(Bucket=bucket, Key="texts/fox.txt", Body=TEXT.encode())
    return folder


def fetched(way: Way) -> int:
    return sum(method == "GET" and ("/models/" in path or "/texts/" in path) for method, path in way.sent)


@ON_ONE
def test_a_job_on_nothing_but_s3(
    settings: Settings, sessions: sessionmaker[Session], model: Path, bucket: str, way: Way
) -> None:
    """It gives the same weights as the same files in a folder, and the second one fetches nothing."""
    settings.s3_roots = [f"s3://{bucket}/models", f"s3://{bucket}/texts/"]
    settings.model_roots = [model.parent]
    (settings.text_roots[0] / "fox.txt").write_text(TEXT)

    def run(model: str, text: str) -> Job:
        windows = {"samples": 2, "sequence_length": 32}
        sources: dict[str, Any] = {
            "calibration": windows | {"source": text},
            "evaluation": windows | {"sources": [text]},
        }
        job_id = make_job(sessions, model=model, output={"format": "dense"}, **sources)
        run_job(job_id, settings, sessions, Event())
        job = read_job(sessions, job_id)
        assert job.state == "succeeded", job.error
        return job

    there = run(f"s3://{bucket}/models/tiny", f"s3://{bucket}/texts/fox.txt")
    count = fetched(way)
    assert count == len(list(model.iterdir())) + 1
    here = run(str(model), "file:fox.txt")
    shards = [{n: s for n, s in sums_of(sessions, j.id).items() if "safetensors" in n} for j in (there, here)]
    assert shards[0] == shards[1]
    run(f"s3://{bucket}/models/tiny/", f"s3://{bucket}/texts/fox.txt")
    assert fetched(way) == count


def test_what_is_fetched(model: Path, bucket: str, way: Way, tmp_path: Path) -> None:
    folder = model_at(f"s3://{bucket}/models/tiny", tmp_path)
    assert files_of(folder) == files_of(model)
    assert all((folder / name).read_bytes() == (model / name).read_bytes() for name in files_of(model))
    make_client().put_object(Bucket=bucket, Key="models/tiny/LICENSE", Body=b"changed")
    changed = model_at(f"s3://{bucket}/models/tiny", tmp_path)
    assert files_of(changed) == files_of(model) | {"LICENSE"}
    assert changed != folder


def test_what_changes_while_it_is_fetched_is_not_kept(model: Path, bucket: str, way: Way, tmp_path: Path) -> None:
    key = "models/tiny/model.safetensors"
    whole = (model / "model.safetensors").read_bytes()

    def overwrite(method: str, path: str) -> None:
        if method == "GET" and path.endswith("config.json"):
            way.fault = lambda method, path: None
            make_client().put_object(Bucket=bucket, Key=key, Body=bytes(len(whole)))

    way.fault = overwrite
    with pytest.raises(ModelNotFound, match="has changed while it was fetched"):
        model_at(f"s3://{bucket}/models/tiny", tmp_path)
    make_client().put_object(Bucket=bucket, Key=key, Body=whole)
    assert (model_at(f"s3://{bucket}/models/tiny", tmp_path) / "model.safetensors").read_bytes() == whole


def test_an_interrupted_fetch_is_gone_on_with(
    model: Path, bucket: str, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way.fault = lambda method, path: "cut" if method == "GET" and fetched(way) > 2 and "/models/" in path else None
    with pytest.raises(StoreUnavailable):
        model_at(f"s3://{bucket}/models/tiny", tmp_path)
    assert not [entry for entry in (tmp_path / "s3").iterdir() if entry.is_dir() and entry.suffix != ".partial"]
    way.fault = lambda method, path: None
    before = fetched(way)
    (partial,) = (tmp_path / "s3").glob("*.partial")
    (partial / "model.safetensors.6eF3b2aC").write_bytes(b"as boto3 names what a killed process has of a file")
    folder = model_at(f"s3://{bucket}/models/tiny", tmp_path)
    assert files_of(folder) == files_of(model)
    assert fetched(way) - before == len(files_of(model)) - 2


def test_several_at_once_fetch_once(model: Path, bucket: str, way: Way, tmp_path: Path) -> None:
    url = f"s3://{bucket}/models/tiny"
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: model_at(url, tmp_path), range(4)))
    assert len(folders) == 1
    assert files_of(folders.pop()) == files_of(model)
    assert fetched(way) == len(files_of(model))


def test_what_is_not_there(model: Path, bucket: str, tmp_path: Path) -> None:
    for url in (f"s3://{bucket}/models/none", f"s3://{bucket}/none.gguf", "s3://no-such-bucket/models"):
        with pytest.raises(ModelNotFound):
            model_at(url, tmp_path)
    for url in (f"s3://{bucket}/texts/none.txt", f"s3://{bucket}/texts/fox.tx", f"s3://{bucket}/texts"):
        with pytest.raises(TextNotFound):
            text_at(url, tmp_path)
    with pytest.raises(NoSpace):
        model_at(f"s3://{bucket}/models/tiny", tmp_path, reserve=2**60)


@ON_ONE
@pytest.mark.parametrize(
    "model", ["s3://secrets/models", "s3://open/modelsecret", "s3://open", "s3://", "s3://open/models?x=1"]
)
def test_urls_that_jobs_may_not_read(settings: Settings, sessions: sessionmaker[Session], model: str) -> None:
    settings.s3_roots = ["s3://open/models"]
    client = TestClient(create_app(settings), headers={"Authorization": f"Bearer {make_key(sessions)[1]}"})
    response = client.post("/v1/jobs", json={"model": model})
    assert (response.status_code, code(response)) == (403, "model-not-allowed")
    response = client.post("/v1/jobs", json={"model": "s3://open/models/a", "calibration": {"source": model}})
    assert (response.status_code, code(response)) == (422, "text-not-found")
    job_id = make_job(sessions, model=model)  # from a time when it was allowed
    run_job(job_id, settings, sessions, Event())
    job = read_job(sessions, job_id)
    assert job.error is not None
    assert job.error["type"] == "urn:eggs:problem:model-not-allowed"
