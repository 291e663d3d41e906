"""Runs that were interrupted, anywhere, and gone on with: the same bytes as undisturbed ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from eggs_core import journal as journal_module
from eggs_core import prune as prune_module
from eggs_core.errors import OutputExists
from eggs_core.journal import FOLDER, Journal, finished
from eggs_core.pipeline import prune
from eggs_core.progress import ProgressEvent
from eggs_core.report import Report
from eggs_core.spec import CalibrationSpec, EvaluationSpec, PruneSpec
from tests.conftest import files_of
from tests.tiny_models import MakeModel

SHORT = {"samples": 4, "sequence_length": 48}
BLOCKS = 3
CHANGING = {"report.json", "SHA256SUMS"}  # hold times and memory


class Killed(Exception):
    """What ends a run at once."""


def spec_for(model: Path, **changes: Any) -> PruneSpec:
    values = {"model": str(model), "calibration": CalibrationSpec(**SHORT), "evaluation": EvaluationSpec(**SHORT)}
    return PruneSpec(**values | changes)


def killer(stage: str, number: int) -> Callable[[ProgressEvent], None]:
    """Kills at the event `number` of a stage, counted from 1."""
    seen: list[ProgressEvent] = []

    def kill(event: ProgressEvent) -> None:
        seen.extend([event] if event.stage == stage else [])
        if len(seen) == number:
            raise Killed

    return kill


def pruned_blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks that have a layer pruned from here on, as often as they have."""
    blocks: list[int] = []
    own = prune_module.prune_layers

    def counting(layers: Any, *others: Any) -> Any:
        blocks.append(next(int(part) for part in layers[0].name.split(".") if part.isdecimal()))
        return own(layers, *others)

    monkeypatch.setattr(prune_module, "prune_layers", counting)
    return blocks


def assert_same(a: Path, b: Path, reports: tuple[Report, Report]) -> None:
    assert files_of(a) == files_of(b)
    for name in files_of(a) - CHANGING:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    excluded: Any = {
        "seconds": True,
        "bytes": {"peak_resident"},
        "evaluation": {"compared": {"__all__": {"seconds"}}},
    }
    first, second = (report.model_dump(exclude=excluded) for report in reports)
    assert first == second


METHODS: dict[str, dict[str, Any]] = {
    "fast": {"effort": "fast"},
    "balanced": {},
    "best": {"effort": "best"},
    "packed": {"output": {"format": "packed"}},
    "compared": {"compare": [{"method": "ria"}, {"method": "sparsegpt"}], "seeds": 2},
}


@pytest.mark.parametrize(
    ("family", "method"), [*(("llama", method) for method in METHODS), ("mixtral", "balanced")]
)
def test_a_run_is_gone_on_with_after_every_block(
    family: str, method: str, make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(make_model(family, num_hidden_layers=BLOCKS), **METHODS[method])
    undisturbed = prune(spec, tmp_path / "a", cache_dir=tmp_path)

    pruned = pruned_blocks(monkeypatch)
    for _ in range(BLOCKS):
        with pytest.raises(Killed):
            prune(spec, tmp_path / "b", cache_dir=tmp_path, progress=killer("prune", len(set(pruned)) + 1))
    assert sorted(pruned) == sorted(pruned, key=pruned.index), "a block that was finished was pruned again"
    of_first_seed = len(pruned)
    report = prune(spec, tmp_path / "b", cache_dir=tmp_path)

    assert set(pruned[:of_first_seed]) == set(range(BLOCKS))
    assert_same(tmp_path / "a", tmp_path / "b", (undisturbed, report))


def test_a_run_is_gone_on_with_from_every_stage(make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("llama", num_hidden_layers=2), compare=[{"method": "ria"}], seeds=3)
    undisturbed = prune(spec, tmp_path / "a", cache_dir=tmp_path)
    kills = [
        ("evaluate_dense", 2),
        ("compare", 1),
        ("evaluate_pruned", 2),
        ("repeat", 2),
        ("repeat", 7),
        ("pack", 1),
    ]
    for kill in kills:
        with pytest.raises(Killed):
            prune(spec, tmp_path / "b", cache_dir=tmp_path, progress=killer(*kill))
    events: list[ProgressEvent] = []
    report = prune(spec, tmp_path / "b", cache_dir=tmp_path, progress=events.append)
    assert_same(tmp_path / "a", tmp_path / "b", (undisturbed, report))
    assert events[-1].fraction == 1


def test_a_shard_that_was_lost_or_changed_is_written_again(make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("llama", num_hidden_layers=BLOCKS), evaluation=None)
    undisturbed = prune(spec, tmp_path / "a", cache_dir=tmp_path)
    for harm in (Path.unlink, lambda file: file.write_bytes(file.read_bytes()[:-1])):
        with pytest.raises(Killed):
            prune(spec, tmp_path / "b", cache_dir=tmp_path, progress=killer("prune", 2))
        harm(sorted((tmp_path / "b").glob("*.safetensors"))[1])
    report = prune(spec, tmp_path / "b", cache_dir=tmp_path)
    assert_same(tmp_path / "a", tmp_path / "b", (undisturbed, report))


def test_another_run_is_not_gone_on_with(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama", num_hidden_layers=BLOCKS)
    with pytest.raises(Killed):
        prune(spec_for(folder), tmp_path / "b", cache_dir=tmp_path, progress=killer("prune", 2))
    with pytest.raises(OutputExists, match="another run"):
        prune(spec_for(folder, pattern="1:4"), tmp_path / "b", cache_dir=tmp_path)


def test_the_model_may_not_change_meanwhile(make_model: MakeModel, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in make_model("llama", num_hidden_layers=BLOCKS).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with pytest.raises(Killed):
        prune(spec_for(folder), tmp_path / "b", cache_dir=tmp_path, progress=killer("prune", 2))
    weights = next(folder.glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(OutputExists, match="another run"):
        prune(spec_for(folder), tmp_path / "b", cache_dir=tmp_path)


@pytest.mark.parametrize("what", ["config", "evaluation"])
def test_nor_what_it_computes_and_is_evaluated_on(what: str, make_model: MakeModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(make_model("llama", num_hidden_layers=BLOCKS), tmp_path / "model"))
    text = tmp_path / "text.txt"
    text.write_text(" ".join(map(str, range(2000))))
    spec = spec_for(folder, evaluation=EvaluationSpec(**SHORT, sources=["file:text.txt"]))
    with pytest.raises(Killed):
        prune(spec, tmp_path / "b", cache_dir=tmp_path, text_roots=[tmp_path], progress=killer("prune", 2))
    if what == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    else:
        text.write_text(" ".join(map(str, range(1000, 3000))))
    with pytest.raises(OutputExists, match="another run"):
        prune(spec, tmp_path / "b", cache_dir=tmp_path, text_roots=[tmp_path])


def test_a_kill_while_the_journal_is_made_or_removed(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_for(make_model("llama"), evaluation=None)
    out = tmp_path / "b"

    own = shutil.rmtree

    def kill(path: Any, *others: Any, **options: Any) -> None:
        if FOLDER in str(path):
            raise Killed
        own(path, *others, **options)

    for module, name in ((journal_module, "_write"), (journal_module.shutil, "rmtree")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, kill)
            with pytest.raises(Killed):
                prune(spec, out, cache_dir=tmp_path)
    assert (out / FOLDER).is_dir()
    report = finished(out)
    assert report is not None
    undisturbed = prune(spec, tmp_path / "a", cache_dir=tmp_path)
    for file in (tmp_path / "a").glob("*.safetensors"):
        assert file.read_bytes() == (out / file.name).read_bytes()
    assert report.layers == undisturbed.layers


def test_a_step_counts_only_when_it_is_whole(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"run": 1})
    assert not journal.interrupted()
    journal.begin()
    assert journal.interrupted()
    assert not Journal(tmp_path, {"run": 2}).interrupted()
    (tmp_path / "shard").write_bytes(b"weights")
    journal.record("block-0", {"layers": []}, [tmp_path / "shard"])
    assert journal.recall("block-0") == {"layers": []}
    assert journal.recall("block-1") is None
    (tmp_path / "shard").write_bytes(b"weighty")
    assert journal.recall("block-0") is None
    journal.end()
    assert not journal.interrupted()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'"',
        b"\xff\xfe",
        b'{"value": 1, "files": []}',
        b'{"value": 1, "files": {"shard": 2}}',
    ],
)
def test_a_damaged_step_is_not_finished(content: bytes, tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"run": 1})
    journal.begin()
    journal.record("block-0", 1)
    (tmp_path / FOLDER / "block-0.json").write_bytes(content)
    assert journal.recall("block-0") is None
    (tmp_path / FOLDER / "run.json").write_bytes(content)
    assert not journal.interrupted()
