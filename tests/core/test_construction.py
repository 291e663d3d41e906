"""Configs whose numbers ask for any amount of modules, lists and tables: refused, in little memory and time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from eggs_core.construction import check_layers, most_positions
from eggs_core.errors import UnsupportedModel
from eggs_core.pipeline import prune
from eggs_core.skeleton import _decoder_blocks
from eggs_core.spec import PruneSpec
from tests.limited import limited
from tests.tiny_models import MakeModel

GPT_NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global"], 2]], "max_position_embeddings": 128}
HUGE = [10**5, 10**9, 10**12, 10**30]


@pytest.fixture
def changed(make_model: MakeModel, tmp_path: Path) -> Any:
    """Makes a model of a family whose config has other values."""

    def change(family: str, changes: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(make_model(family, **(GPT_NEO if family == "gpt_neo" else {})), folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k not in without}))
        return folder

    return change


def refusal(folder: Path, tmp_path: Path) -> str:
    """What a run on the model is told, which takes little memory and time."""
    spec = PruneSpec(model=str(folder), calibration={"samples": 1, "sequence_length": 16}, evaluation=None)
    outcome, peak = limited(lambda: prune(spec, tmp_path / "out", cache_dir=tmp_path / "cache"))
    assert peak < 256 << 20
    return outcome


@pytest.mark.parametrize("value", [9999, *HUGE])
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "num_hidden_layers"),
        ("gpt2", "n_layer"),
        ("qwen2", "num_hidden_layers"),
        ("qwen3_moe", "num_hidden_layers"),
        ("gpt_neo", "num_layers"),
    ],
)
def test_more_layers_than_there_are_weights_for(
    family: str, name: str, value: int, changed: Any, tmp_path: Path
) -> None:
    # Without them as many are made as there are layers.
    folder = changed(family, {name: value}, without=("layer_types", "attention_types"))
    outcome = refusal(folder, tmp_path)
    assert outcome.startswith("UnsupportedModel: ")
    assert "config" in outcome


@pytest.mark.parametrize("value", HUGE)
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "hidden_size"),
        ("llama", "intermediate_size"),
        ("llama", "vocab_size"),
        ("llama", "head_dim"),
        ("llama", "num_attention_heads"),
        ("gpt2", "n_embd"),
        ("gpt_neo", "max_position_embeddings"),
        ("mixtral", "num_local_experts"),
        ("gpt_oss", "num_local_experts"),
    ],
)
def test_sizes_that_no_memory_holds(family: str, name: str, value: int, changed: Any, tmp_path: Path) -> None:
    outcome = refusal(changed(family, {name: value}), tmp_path)
    assert outcome.startswith(("UnsupportedModel: ", "BrokenCheckpoint: "))


def test_tables_beside_the_weights_are_counted_before_they_are_made(changed: Any, tmp_path: Path) -> None:
    outcome = refusal(changed("gpt_neo", {"max_position_embeddings": 10**5}), tmp_path)
    assert "tables of 18.6 GiB" in outcome


@pytest.mark.parametrize(
    ("name", "written", "outcome"),
    [
        ("rms_norm_eps", "NaN", "BrokenCheckpoint: "),
        ("rms_norm_eps", "-1", "UnsupportedModel: "),
        ("rms_norm_eps", "1e400", "done"),  # every state is zero, and so a number
        ("initializer_range", "NaN", "UnsupportedModel: "),
        ("num_hidden_layers", "NaN", "UnsupportedModel: "),
        ("num_hidden_layers", "1e9", "UnsupportedModel: "),
        ("num_hidden_layers", "-1", "UnsupportedModel: "),
        ("num_hidden_layers", "9" * 5000, "UnsupportedModel: "),
        ("hidden_size", "-32", "UnsupportedModel: "),
        ("vocab_size", "-1", "UnsupportedModel: "),
        ("vocab_size", "1e400", "UnsupportedModel: "),
    ],
)
def test_numbers_that_are_none(name: str, written: str, outcome: str, changed: Any, tmp_path: Path) -> None:
    folder = changed("llama", {name: "HERE"})
    config = (folder / "config.json").read_text().replace('"HERE"', written)
    (folder / "config.json").write_text(config)
    assert refusal(folder, tmp_path).startswith(outcome)


def test_sizes_of_a_vocabulary_for_every_layer_count_no_layers() -> None:
    check_layers({"vocab_size_per_layer_input": 262144, "text_config": {"vocab_size_per_layer_input": 262144}})
    with pytest.raises(UnsupportedModel, match="num_hidden_layers"):
        check_layers({"text_config": {"num_hidden_layers": 262144}})


def test_a_config_that_asks_for_tuples(changed: Any, tmp_path: Path) -> None:
    text = {"samples": 1, "sequence_length": 32}
    spec = PruneSpec(
        model=str(changed("llama", {"return_dict": False})),
        calibration=text,
        evaluation={**text, "generations": 1, "speed": True},
    )
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path / "cache")
    assert report.evaluation is not None
    assert len(report.evaluation.generations) == 1


def test_a_config_that_counts_no_layers_of_its_own() -> None:
    """BLT has those of its encoders and decoders."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model("blt"))
    with pytest.raises(UnsupportedModel, match="No list of decoder blocks"):
        _decoder_blocks(model)


@pytest.mark.parametrize(("family", "most"), [("xlnet", None), ("gpt2", 1024)])
def test_positions_without_end(family: str, most: int | None) -> None:
    assert most_positions(AutoConfig.for_model(family)) == most
