"""Two real processes on gloo prune one model: the masks are those of one, and what ends one ends both."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from eggs_core.distributed import ALONE, deal
from eggs_core.pipeline import prune
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from tests.tiny_models import MakeModel

PROCESSES = 2
# Not to be shared evenly, and enough for Gram matrices that rounding does not tip.
SHORT = {"samples": 11, "sequence_length": 64}
METHODS: dict[str, dict[str, Any]] = {
    "magnitude": {"method": "magnitude"},
    "ria": {"method": "ria"},
    "sparsegpt": {"method": "sparsegpt"},
    "fast": {"effort": "fast", "permute": False},
    "permuted": {"effort": "fast"},
    "balanced": {"effort": "balanced", "permute": False},
    "balanced-permuted": {"effort": "balanced"},
    "best": {"effort": "best", "permute": False},
}
# Of so few tokens some of the experts see none, in one process or in both.
FEW = {"samples": 2, "sequence_length": 8}


def torchrun(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    return subprocess.run([*launcher, "-m", module, *arguments], env=environment, capture_output=True, text=True)


@dataclass
class Runs:
    """Jobs that one start of two processes does, one after the other, and what became of them."""

    folder: Path
    jobs: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[list[dict[str, Any]]] = field(default_factory=list)

    def add(self, name: str, model: Path, cancel_in: str | None = None, **changes: Any) -> None:
        spec = {"model": str(model), "calibration": SHORT, "evaluation": None} | changes
        self.jobs.append({"name": name, "spec": spec, "out": str(self.folder / name), "cancel_in": cancel_in})

    def do(self) -> None:
        file = self.folder / "jobs.json"
        file.write_text(json.dumps(self.jobs))
        torchrun("tests.core.prune_in_processes", str(file)).check_returncode()
        self.outcomes = [json.loads(file.with_suffix(f".{rank}").read_text()) for rank in range(PROCESSES)]

    def errors(self, name: str) -> list[Any]:
        """How the job ended in each process."""
        return [of_rank[self._number(name)]["error"] for of_rank in self.outcomes]

    def fractions(self, name: str) -> list[list[float]]:
        return [of_rank[self._number(name)]["fractions"] for of_rank in self.outcomes]

    def spec(self, name: str) -> PruneSpec:
        return PruneSpec.model_validate(self.jobs[self._number(name)]["spec"])

    def _number(self, name: str) -> int:
        return [job["name"] for job in self.jobs].index(name)


@pytest.fixture(scope="module")
def runs(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("runs"))
    for method, changes in METHODS.items():
        runs.add(f"llama-{method}", make_model("llama"), **changes)
        runs.add(f"mixtral-{method}", make_model("mixtral"), **changes)
    for method in ("fast", "balanced"):
        model = make_model("qwen3_moe", num_experts=32)
        runs.add(f"qwen3_moe-{method}", model, calibration=FEW, **METHODS[method])
    runs.add("again", make_model("llama"), **METHODS["best"])
    runs.add("evaluated", make_model("llama"), evaluation=SHORT, seeds=2)
    for family in ("llama", "mixtral"):
        compare = [{"method": "ria"}, {"method": "sparsegpt"}, {"method": "eggs", "effort": "fast"}]
        runs.add(f"compared-{family}", make_model(family), evaluation=SHORT, compare=compare)
    for stage in ("open", "evaluate_dense", "prune", "evaluate_pruned"):
        runs.add(f"cancelled-{stage}", make_model("llama"), cancel_in=stage, evaluation=SHORT)
    runs.add("too-few", make_model("llama"), calibration={"samples": 1, "sequence_length": 48})
    for layer in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
        broken = runs.folder / f"broken-{layer}-model"
        shutil.copytree(make_model("llama"), broken)
        tensors = load_file(broken / "model.safetensors")
        tensors[f"model.layers.1.{layer}.weight"][0, 0] = torch.nan
        save_file(tensors, broken / "model.safetensors", {"format": "pt"})
        runs.add(f"broken-{layer}", broken)
    runs.do()
    return runs


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


COMPARED = [
    *(f"{family}-{method}" for family in ("llama", "mixtral") for method in METHODS if method != "best"),
    "qwen3_moe-fast",
]


@pytest.mark.parametrize("name", COMPARED)
def test_masks_are_those_of_one_process(name: str, runs: Runs, tmp_path: Path) -> None:
    assert runs.errors(name) == [None, None]
    alone = prune(runs.spec(name), tmp_path / "alone", cache_dir=tmp_path)
    expected, found = tensors_of(tmp_path / "alone"), tensors_of(runs.folder / name)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        assert torch.equal(tensor != 0, found[key] != 0), key
        assert torch.allclose(tensor, found[key], rtol=1e-2, atol=1e-3), key
    report = Report.model_validate_json((runs.folder / name / "report.json").read_text())
    assert (alone.processes, report.processes) == (1, PROCESSES)
    for ours, theirs in zip(report.layers, alone.layers, strict=True):
        assert (ours.name, ours.importance) == (theirs.name, theirs.importance)
        assert (ours.min_degree, ours.calibration_tokens) == (theirs.min_degree, theirs.calibration_tokens)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_the_first_block_is_trained_on_the_masks_of_one_process(family: str, runs: Runs, tmp_path: Path) -> None:
    """Steps are taken on other batches, so that weights are only near, and later blocks read other inputs."""
    name = f"{family}-best"
    alone = prune(runs.spec(name), tmp_path / "alone", cache_dir=tmp_path)
    expected, found = tensors_of(tmp_path / "alone"), tensors_of(runs.folder / name)
    for key in (key for key in expected if ".layers.0." in key):
        assert torch.equal(expected[key] != 0, found[key] != 0), key
        assert (expected[key] - found[key]).norm() < 0.1 * expected[key].norm(), key
    report = Report.model_validate_json((runs.folder / name / "report.json").read_text())
    for trained in (*report.training, *alone.training):
        assert trained.error_before is not None
        assert trained.error_after is not None
        assert trained.error_after < trained.error_before


def test_some_experts_saw_no_token(runs: Runs) -> None:
    """So that a process without statistics is among the cases compared; Gram matrices are summed there, too."""
    fast, balanced = (
        Report.model_validate_json((runs.folder / f"qwen3_moe-{effort}" / "report.json").read_text())
        for effort in ("fast", "balanced")
    )
    tokens = [layer.calibration_tokens for layer in fast.layers if layer.block == 0]
    assert 0 in tokens
    assert 1 in tokens  # which two processes cannot both have seen
    assert runs.errors("qwen3_moe-balanced") == [None, None]
    assert [layer.calibration_tokens for layer in balanced.layers if layer.block == 0] == tokens


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_training_brings_the_outputs_nearer(family: str, runs: Runs) -> None:
    balanced, best = (
        Report.model_validate_json((runs.folder / f"{family}-{effort}" / "report.json").read_text())
        for effort in ("balanced", "best")
    )
    assert runs.errors(f"{family}-best") == [None, None]
    assert best.layers != balanced.layers
    assert len(best.training) == 2
    for block in best.training:
        assert block.error_before is not None
        assert block.error_after is not None
        assert 0 < block.error_after < block.error_before
    ours, theirs = tensors_of(runs.folder / f"{family}-best"), tensors_of(runs.folder / f"{family}-balanced")
    assert any(not torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_the_same_request_gives_the_same_bytes(runs: Runs) -> None:
    first, second = tensors_of(runs.folder / "llama-best"), tensors_of(runs.folder / "again")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_first_process_reports(runs: Runs, tmp_path: Path) -> None:
    fractions, of_others = runs.fractions("evaluated")
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1], of_others) == (0, 1, [])
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=runs.folder / "evaluated", check=True)
    assert not list((runs.folder / "evaluated").glob(".*"))
    report = Report.model_validate_json((runs.folder / "evaluated" / "report.json").read_text())
    alone = prune(runs.spec("evaluated"), tmp_path / "alone", cache_dir=tmp_path)
    assert report.evaluation is not None
    assert alone.evaluation is not None
    for ours, theirs in zip(report.evaluation.repeats, alone.evaluation.repeats, strict=True):
        assert ours.perplexities == pytest.approx(theirs.perplexities, rel=1e-3)


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_comparisons_are_those_of_one_process(family: str, runs: Runs, tmp_path: Path) -> None:
    name = f"compared-{family}"
    assert runs.errors(name) == [None, None]
    assert not list((runs.folder / name).glob(".*"))
    report = Report.model_validate_json((runs.folder / name / "report.json").read_text())
    alone = prune(runs.spec(name), tmp_path / "alone", cache_dir=tmp_path)
    assert report.evaluation is not None
    assert alone.evaluation is not None
    assert len(alone.evaluation.compared) == 3
    for ours, theirs in zip(report.evaluation.compared, alone.evaluation.compared, strict=True):
        assert (ours.method, ours.effort, ours.min_degree) == (theirs.method, theirs.effort, theirs.min_degree)
        assert ours.perplexities == pytest.approx(theirs.perplexities, rel=1e-3)
        assert ours.mean_relative_output_error == pytest.approx(theirs.mean_relative_output_error, rel=1e-2)


@pytest.mark.parametrize("stage", ["open", "evaluate_dense", "prune", "evaluate_pruned"])
def test_a_cancel_ends_all(stage: str, runs: Runs) -> None:
    assert runs.errors(f"cancelled-{stage}") == [["Cancelled", ""]] * PROCESSES


@pytest.mark.parametrize("layer", ["self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"])
def test_an_error_in_one_ends_all(layer: str, runs: Runs) -> None:
    """Whichever process solves the layer."""
    (kind, message), other = runs.errors(f"broken-{layer}")
    assert kind == "BrokenCheckpoint"
    assert f"model.layers.1.{layer}" in message
    assert other == [kind, message]


def test_fewer_windows_than_processes(runs: Runs) -> None:
    for kind, message in runs.errors("too-few"):
        assert kind == "TooManyProcesses"
        assert "Ask for 2 samples or more" in message


def test_the_command_line_under_torchrun(make_model: MakeModel, tmp_path: Path) -> None:
    """One process speaks, whether it goes well or not."""
    out = tmp_path / "out"
    command = ["prune", str(make_model("llama")), "--out", str(out), "--evaluation", "none"]
    short = ["--calibration-samples", "2", "--sequence-length", "32"]
    run = torchrun("app.cli", *command, *short)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(f"The pruned model and its report are in {out}") == 1
    assert Report.model_validate_json((out / "report.json").read_text()).processes == PROCESSES

    run = torchrun("app.cli", *command, *short)
    assert run.returncode == 1
    assert run.stderr.count("exists and is not empty") == 1


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(1, 8))
def test_dealing_leaves_nobody_far_behind(costs: list[float], size: int) -> None:
    """Graham: at most 4/3 of the best, and so of the mean load or the dearest task, with one task more."""
    owners = deal(costs, size)
    assert len(owners) == len(costs)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(size)]
    assert max(loads) <= sum(costs) / size + max(costs, default=0) + 1e-6


def test_one_process_alone_does_everything_itself() -> None:
    windows = torch.arange(6).view(3, 2)
    assert torch.equal(ALONE.shard(windows), windows)
    assert ALONE.share([0, 0, 0], lambda i: i**2) == [0, 1, 4]
