"""What made a checkpoint: the versions in its report, and the commit of the code where that is known."""

import json
from pathlib import Path

import pytest

from app.examples import REPORT
from eggs_core.card import model_card
from eggs_core.report import Report
from eggs_core.summary import versions

COMMIT = "4e1243bd22c66e76c2ba9eddc1f91394e57f9f83"


def card() -> str:
    return model_card(Report.model_validate(REPORT | {"versions": versions()}))


def installed(folder: Path, origin: dict[str, object]) -> None:
    """Another eggs in the folder, with what pip notes of where it has it from."""
    notes = folder / "eggs-7.dist-info"
    notes.mkdir(exist_ok=True)
    (notes / "METADATA").write_text("Metadata-Version: 2.1\nName: eggs\nVersion: 7\n")
    (notes / "direct_url.json").write_text(json.dumps(origin))


def test_the_commit_of_the_code_is_named_where_it_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EGGS_COMMIT", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    installed(tmp_path, {"url": "file:///home/me/eggs", "dir_info": {"editable": True}})
    assert versions().keys() >= {"eggs", "python", "torch"}
    assert "eggs_commit" not in versions()
    assert "eggs 7 with method" in card()
    vcs = {"vcs": "git", "requested_revision": "main", "commit_id": COMMIT}
    installed(tmp_path, {"url": "https://example.com/eggs.git", "vcs_info": vcs})
    assert versions()["eggs_commit"] == COMMIT
    assert f"eggs 7 at commit `{COMMIT}` with method" in card()
    monkeypatch.setenv("EGGS_COMMIT", "0" * 40)  # as an image has it
    assert versions()["eggs_commit"] == "0" * 40
    monkeypatch.setenv("EGGS_COMMIT", "")  # as one that was built without
    assert versions()["eggs_commit"] == COMMIT
