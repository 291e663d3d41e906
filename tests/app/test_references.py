"""References to models and texts are relative to the folders that they may be read from."""

import os
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app.settings import Settings
from eggs_core.errors import ModelNotFound
from eggs_core.sources import offered_models, resolve_model, resolve_text_file


def make_model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def test_a_text_and_models_put_into_the_data_folder(client: TestClient, settings: Settings) -> None:
    make_model(settings.data_dir / "models" / "tiny")
    make_model(settings.data_dir / "models" / "models" / "x")
    (settings.data_dir / "texts" / "a.txt").write_text("A text.")
    for model in ("tiny", "models/x", "./tiny"):
        body = {"model": model, "calibration": {"source": "file:a.txt"}}
        response = client.post("/v1/jobs", json=body)
        assert response.status_code == 201
        spec = response.json()["spec"]
        assert (spec["model"], spec["calibration"]["source"]) == (model, "file:a.txt")


def test_the_first_root_that_has_it_wins(tmp_path: Path) -> None:
    roots = [tmp_path / "first", tmp_path / "second", tmp_path / "missing"]
    make_model(roots[0] / "both")
    make_model(roots[1] / "both")
    make_model(roots[1] / "one")
    assert resolve_model("both", roots).path == roots[0] / "both"
    assert resolve_model("one", roots).path == roots[1] / "one"
    make_model(roots[1] / os.fsdecode(b"no\xfftext"))  # a name that is no text
    offered = {model.id: model.path for model in offered_models(roots) if model.kind == "local"}
    assert offered == {"both": roots[0] / "both", "one": roots[1] / "one"}


def test_a_folder_comes_before_a_hub_id(tmp_path: Path) -> None:
    assert resolve_model("org/name", [tmp_path]).kind == "hub"
    make_model(tmp_path / "org" / "name")
    assert resolve_model("org/name", [tmp_path]).kind == "local"


def test_without_roots_paths_start_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "tiny")
    (tmp_path / "a.txt").write_text("A text.")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("tiny", "./tiny", "~/tiny", str(tmp_path / "tiny")):
        assert resolve_model(path, None).path == tmp_path / "tiny"
    for path in ("a.txt", "~/a.txt"):
        assert resolve_text_file(f"file:{path}", None) == tmp_path / "a.txt"
    for path in ("~nosuchuser", "a\0b", "x" * 300):
        with pytest.raises(ModelNotFound):
            resolve_model(path, None)
