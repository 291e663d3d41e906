"""Checkpoints that others than `save_pretrained` have left: what transformers makes of them is what is pruned."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint
from eggs_core.pipeline import prune
from eggs_core.text import token_windows
from eggs_core.whole import check, load
from tests.core.test_pipeline import spec_for
from tests.tiny_models import MakeModel


def changed_copy(folder: Path, source: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("stored", ["head alone", "embedding alone", "both, and they differ"])
def test_tied_embeddings_are_those_that_transformers_loads(
    stored: str, make_model: MakeModel, tmp_path: Path
) -> None:
    def store(tensors: dict[str, Tensor]) -> None:
        own = tensors["model.embed_tokens.weight"]
        if stored == "head alone":
            tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        elif stored != "embedding alone":
            tensors["lm_head.weight"] = own.flip(0).contiguous()

    folder = changed_copy(tmp_path / "model", make_model("llama", tie_word_embeddings=True), store)
    report = prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    assert report.evaluation is not None
    perplexity = report.evaluation.texts[0].perplexity
    for at, told in ((folder, perplexity.dense), (tmp_path / "out", perplexity.pruned)):
        assert perplexity_of(at, tmp_path) == pytest.approx(told, rel=1e-4)


def perplexity_of(folder: Path, cache: Path) -> float:
    """By transformers, on the windows that a report's is of."""
    evaluation = spec_for(folder).evaluation
    assert evaluation is not None
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = token_windows(evaluation.texts[0], "evaluation", tokenizer, text_roots=None, cache_dir=cache)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        losses = [model(input_ids=window[None], labels=window[None]).loss for window in tokens]
    return float(torch.stack(losses).mean().exp())


@pytest.mark.parametrize("other", ["consolidated.safetensors", "model_ema.safetensors"])
def test_weights_for_other_programs_beside_the_model_are_left_alone(
    other: str, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, folder / other)
    prune(spec_for(make_model("llama"), evaluation=None), tmp_path / "a", cache_dir=tmp_path)
    prune(spec_for(folder, evaluation=None), tmp_path / "b", cache_dir=tmp_path)
    a, b = (Checkpoint(tmp_path / name) for name in "ab")
    assert a.file_of.keys() == b.file_of.keys()
    assert all(torch.equal(a.read([name])[name], b.read([name])[name]) for name in a.file_of)
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    with pytest.raises(BrokenCheckpoint, match="is both in"):
        prune(spec_for(folder), tmp_path / "c", cache_dir=tmp_path)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_tokenizer_that_knows_no_word_is_none(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    """transformers makes one of these families where there is no file, or none but its settings."""
    folder = Path(shutil.copytree(make_model(family), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    for _ in range(2):
        with pytest.raises(BrokenCheckpoint, match="no tokenizer"):
            prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
        (folder / "tokenizer_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_that_lacks_weights_is_not_run_with_random_ones(
    tied: bool, make_model: MakeModel, tmp_path: Path
) -> None:
    """Of those that are tied one is stored."""
    model = make_model("llama", tie_word_embeddings=tied)
    assert ("lm_head.weight" not in load_file(model / "model.safetensors")) == tied
    for name in ("model.layers.1.mlp.down_proj.weight", "model.embed_tokens.weight"):
        folder = changed_copy(tmp_path / name, model, lambda tensors, name=name: tensors.pop(name))  # type: ignore[misc]
        for load_or_check in (load, check):
            load_or_check(model)
            with pytest.raises(BrokenCheckpoint, match=r"lacks \d weights, such as"):
                load_or_check(folder)
