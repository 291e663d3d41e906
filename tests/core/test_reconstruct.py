"""Training a block: it lowers the held-out error or changes nothing, and the mask stays."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.layers import prunable_layers
from eggs_core.masks import top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.prune import passes
from eggs_core.reconstruct import reconstruct
from eggs_core.solve import PrunedLayer
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
    tokens = calibration_tokens(dense, tmp_path)
    target = logits(dense, tokens)
    balanced, best = (
        float((logits(tmp_path / effort, tokens) - target).square().mean())
        for effort in (Effort.BALANCED, Effort.BEST)
    )
    assert best < balanced


def calibration_tokens(folder: Path, cache: Path) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = spec_for(folder, Effort.BEST).calibration
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
        self.pruned = PrunedLayer(layer, self.module.weight.clone(), self.mask, None)  # type: ignore[arg-type]


def test_what_was_held_out_decides() -> None:
    block = _Linear(NMPattern(2, 4))
    outcome = reconstruct([block.pruned], block.module, block.inputs, block.targets)
    assert outcome is not None
    assert 0 < outcome.after < outcome.before
    assert torch.equal(block.module.weight != 0, block.mask)

    # Targets that the training batches contradict: nothing learnt from them helps on those held out.
    block = _Linear(NMPattern(4, 4))
    before = block.module.weight.clone()
    contrary = [-Y if i < 14 else Y for i, Y in enumerate(block.targets)]
    outcome = reconstruct([block.pruned], block.module, block.inputs, contrary)
    assert outcome is not None
    assert (outcome.epochs, outcome.after) == (0, outcome.before)
    assert torch.equal(block.module.weight, before)


def test_one_batch_is_left_alone() -> None:
    block = _Linear(NMPattern(2, 4))
    before = block.module.weight.clone()
    assert reconstruct([block.pruned], block.module, block.inputs[:1], block.targets[:1]) is None
    assert torch.equal(block.module.weight, before)


def test_progress_counts_the_epochs(make_model: MakeModel) -> None:
    work = [passes(spec_for(make_model("llama"), effort)) for effort in Effort]
    assert work[0] < work[1] < work[2]
