"""Training a block: it lowers the held-out error or changes nothing, and the mask stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.layers import prunable_layers
from eggs_core.masks import top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.prune import passes
from eggs_core.reconstruct import EPOCHS, reconstruct
from eggs_core.solve import FIGURES, PrunedLayer
from eggs_core.spec import CalibrationSpec, Effort, PruneSpec
from eggs_core.text import token_windows
from tests.tiny_models import MakeModel


def spec_for(folder: Path, effort: Effort, samples: int = 16) -> PruneSpec:
    text = CalibrationSpec(samples=samples, sequence_length=32)
    return PruneSpec(model=str(folder), effort=effort, calibration=text, evaluation=None)


def logits(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder).eval()(input_ids=tokens).logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_training_brings_the_outputs_nearer(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    dense = make_model(family)
    for effort in (Effort.BALANCED, Effort.BEST):
        prune(spec_for(dense, effort), tmp_path / effort, cache_dir=tmp_path)
    tokens = other_tokens(dense, tmp_path)
    target = logits(dense, tokens)
    balanced, best = (
        float((logits(tmp_path / effort, tokens) - target).square().mean())
        for effort in (Effort.BALANCED, Effort.BEST)
    )
    assert best < balanced


def other_tokens(folder: Path, cache: Path) -> torch.Tensor:
    """Windows of the text that the models were not calibrated on."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = spec_for(folder, Effort.BEST).calibration.model_copy(update={"seed": 1})
    return token_windows(text, "calibration", tokenizer, text_roots=None, cache_dir=cache)


def test_the_same_request_gives_the_same_bytes(make_model: MakeModel, tmp_path: Path) -> None:
    for name in ("a", "b"):
        prune(spec_for(make_model("llama"), Effort.BEST), tmp_path / name, cache_dir=tmp_path)
    for file in (tmp_path / "a").glob("*.safetensors"):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


class _Linear:
    """A block of one layer, as `reconstruct` is given it."""

    def __init__(self, pattern: NMPattern) -> None:
        generator = torch.Generator().manual_seed(0)
        self.module = torch.nn.Linear(16, 16, bias=False).requires_grad_(False)
        self.module.weight.copy_(torch.randn(16, 16, generator=generator))
        mixing = torch.randn(16, 16, generator=generator)  # of uncorrelated inputs the dense weights are the best
        self.inputs = [torch.randn(2, 8, 16, generator=generator) @ mixing for _ in range(16)]
        self.targets = [self.module(X) for X in self.inputs]
        (layer,) = prunable_layers(torch.nn.ModuleDict({"fc": self.module}), "block", ())
        self.mask = top_n_mask(layer.weight.abs(), pattern)
        self.module.weight.mul_(self.mask)
        self.pruned = PrunedLayer(layer, self.module.weight.clone(), self.mask, torch.zeros(FIGURES), 0)

    def __call__(self, X: torch.Tensor, batch: int) -> torch.Tensor:
        Y: torch.Tensor = self.module(X)
        return Y


def held_out_error(block: _Linear) -> float:
    """Of the last two of 16 batches."""
    errors = [
        ((block.module(X) - Y).square().sum(-1) / Y.square().sum(-1)).mean()
        for X, Y in zip(block.inputs[14:], block.targets[14:], strict=True)
    ]
    return float(torch.stack(errors).mean())


def test_what_was_held_out_decides() -> None:
    block = _Linear(NMPattern(2, 4))
    outcome = reconstruct([block.pruned], 3, block, block.inputs, block.targets)
    assert (outcome.block, outcome.skipped) == (3, None)
    assert outcome.error_before is not None
    assert outcome.error_after is not None
    assert 0 < outcome.error_after < outcome.error_before
    assert outcome.error_after == pytest.approx(held_out_error(block), rel=1e-5)
    assert torch.equal(block.module.weight != 0, block.mask)

    # Targets that the training batches contradict: nothing learnt from them helps on those held out.
    block = _Linear(NMPattern(4, 4))
    before = block.module.weight.clone()
    contrary = [-Y if i < 14 else Y for i, Y in enumerate(block.targets)]
    outcome = reconstruct([block.pruned], 0, block, block.inputs, contrary)
    assert outcome.error_before is not None
    assert (outcome.epochs, outcome.error_after) == (0, outcome.error_before)
    assert torch.equal(block.module.weight, before)


class _Reads(TorchDispatchMode):
    """Counts the numbers that are read of tensors, for each of which the host would wait for a GPU."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_nothing_is_read_in_between() -> None:
    block = _Linear(NMPattern(2, 4))
    with _Reads() as reads:
        float(block.mask.sum())
        outcome = reconstruct([block.pruned], 0, block, block.inputs, block.targets)
    assert outcome.epochs > 0
    assert reads.count == 1


def test_gradients_of_float16_do_not_vanish() -> None:
    """Of the mean error of many outputs, relative to large ones, they are smaller than its least number."""
    block = _Linear(NMPattern(2, 4))
    inputs, targets = ([(500 * T).half().repeat(1, 64, 1) for T in of] for of in (block.inputs, block.targets))
    block.module.half()
    outcome = reconstruct([block.pruned], 0, block, inputs, targets)
    assert outcome.error_before is not None
    assert outcome.error_after is not None
    assert outcome.error_after < 0.95 * outcome.error_before


def test_one_batch_is_left_alone() -> None:
    block = _Linear(NMPattern(2, 4))
    before = block.module.weight.clone()
    outcome = reconstruct([block.pruned], 0, block, block.inputs[:1], block.targets[:1])
    assert (outcome.skipped, outcome.error_before, outcome.epochs) == ("too-few-batches", None, 0)
    assert torch.equal(block.module.weight, before)
    assert reconstruct([], 0, block, block.inputs, block.targets).skipped == "nothing-pruned"


def test_an_error_that_is_not_finite_is_not_told() -> None:
    block = _Linear(NMPattern(2, 4))
    outcome = reconstruct([block.pruned], 0, block, block.inputs, [Y * 0 for Y in block.targets])
    assert (outcome.skipped, outcome.error_before, outcome.error_after, outcome.epochs) == (None, None, None, 0)


def test_the_report_tells_what_training_brought(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model("llama")
    ignore = ("model.layers.1.*",)
    reports = {
        effort: prune(
            spec_for(model, effort).model_copy(update={"ignore": ignore}), tmp_path / effort, cache_dir=tmp_path
        )
        for effort in (Effort.BALANCED, Effort.BEST)
    }
    balanced, best = reports[Effort.BALANCED], reports[Effort.BEST]
    assert balanced.training == []
    trained, ignored = best.training
    assert (trained.block, trained.skipped, ignored.block, ignored.skipped) == (0, None, 1, "nothing-pruned")
    assert trained.error_before is not None
    assert trained.error_after is not None
    assert 0 < trained.error_after < trained.error_before
    assert trained.epochs > 0

    (note,) = (note for note in best.notes if "output errors of layers are those from before" in note)
    assert "1 of 1 blocks" in note
    assert note in (tmp_path / "best" / "README.md").read_text()
    for before, after in zip(balanced.layers, best.layers, strict=True):  # the first block's, of the same input
        assert after.relative_output_error == pytest.approx(before.relative_output_error, rel=1e-4)
    weights = load_file(tmp_path / "best" / "model-00002-of-00003.safetensors")
    for layer in best.layers:
        W = weights[f"{layer.name}.weight"]
        assert layer.sparsity == 1 - W.count_nonzero().item() / W.numel()


def test_the_report_tells_that_nothing_was_trained(make_model: MakeModel, tmp_path: Path) -> None:
    report = prune(spec_for(make_model("llama"), Effort.BEST, samples=1), tmp_path / "out", cache_dir=tmp_path)
    assert {block.skipped for block in report.training} == {"too-few-batches"}
    assert [note for note in report.notes if "not trained" in note]


def test_progress_counts_the_epochs(make_model: MakeModel) -> None:
    work = {effort: passes(spec_for(make_model("llama"), effort)) for effort in Effort}
    assert work == {Effort.FAST: 1, Effort.BALANCED: 2, Effort.BEST: 3 + 3 * EPOCHS}
