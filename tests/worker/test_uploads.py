"""A job on nothing but uploads: over HTTP, then through a worker, in one process and in several."""

import io
import shutil
import tarfile
from pathlib import Path
from threading import Event

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.orm import Session, sessionmaker

from app.main import create_app
from app.settings import Settings
from tests.app.build import make_key
from tests.tiny_models import MakeModel, bring_code
from worker.runner import run_job

SHORT = {"samples": 2, "sequence_length": 32}


@pytest.mark.parametrize("processes", [1, 2])
def test_an_uploaded_model_is_pruned_with_an_uploaded_text(
    processes: int, settings: Settings, sessions: sessionmaker[Session], make_model: MakeModel, tmp_path: Path
) -> None:
    """Without the code that it brings."""
    settings.processes = processes
    folder, trace = tmp_path / "tiny", tmp_path / "trace"
    shutil.copytree(make_model("llama", max_shard_size="50KB"), folder)
    bring_code(folder, trace)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, "tiny")
    text = "".join(f"Egg number {number} is boiled.\n" for number in range(1000))
    with TestClient(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {make_key(sessions)[1]}"
        model, notes = (
            client.post("/v1/files", files={"file": file}).json()["id"]
            for file in (("tiny.tar.gz", packed.getvalue()), ("notes.txt", text.encode()))
        )
        body = {
            "model": model,
            "min_degree": 2,
            "calibration": {"source": notes, **SHORT},
            "evaluation": {"sources": ["pydocs", notes], **SHORT},
        }
        submitted = client.post("/v1/jobs", json=body)
        assert submitted.status_code == 201, submitted.text
        url = f"/v1/jobs/{submitted.json()['id']}"
        run_job(submitted.json()["id"], settings, sessions, Event())

        job = client.get(url).json()
        assert (job["state"], job["error"]) == ("succeeded", None)
        assert not trace.exists()
        report = client.get(f"{url}/report").json()
        assert report["model"]["reference"] == model
        assert report["calibration"]["source"] == notes
        assert [measured["text"]["source"] for measured in report["evaluation"]["texts"]] == ["pydocs", notes]
        card = client.get(f"{url}/artifacts/README.md").text
        assert model in card
        for shown in (card, client.get(f"{url}/report").text, client.get(f"{url}/artifacts/config.json").text):
            assert str(settings.data_dir) not in shown
        assert [client.delete(f"/v1/files/{file_id}").status_code for file_id in (model, notes)] == [200, 200]
