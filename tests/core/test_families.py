"""Every decoder-only family goes through the same code, end to end."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import UnsupportedModel
from eggs_core.evaluate import perplexity
from eggs_core.pipeline import prune
from eggs_core.skeleton import Skeleton
from eggs_core.spec import CalibrationSpec, Effort, EvaluationSpec, Method, PruneSpec
from eggs_core.stream import MAX_BATCH_TOKENS
from tests.tiny_models import FAMILIES, MakeModel

SHORT = {"samples": 4, "sequence_length": 48}
MOE = ("mixtral", "qwen3_moe")


def spec_for(model: Path, **changes: object) -> PruneSpec:
    values = {
        "model": str(model),
        "min_degree": 2,
        "calibration": CalibrationSpec(**SHORT),
        "evaluation": EvaluationSpec(**SHORT),
    } | changes
    return PruneSpec(**values)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = Checkpoint(folder)
    return checkpoint.read(checkpoint.file_of)


@pytest.mark.parametrize("family", FAMILIES)
def test_streamed_perplexity_is_the_models_own(
    family: str, make_model: MakeModel, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several batches, which may not get each other's arguments."""
    monkeypatch.setitem(MAX_BATCH_TOKENS, "cpu", 40)
    folder = make_model(family)
    tokens = torch.randint(1, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    streamed, predicted = perplexity(Skeleton(Checkpoint(folder), torch.device("cpu")), tokens)

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        own = torch.exp(model(input_ids=tokens, labels=tokens).loss).item()
    assert predicted == 3 * 39
    assert streamed == pytest.approx(own, rel=1e-4)


@pytest.mark.parametrize("effort", Effort)
@pytest.mark.parametrize("family", FAMILIES)
def test_pruned_model_loads_and_keeps_the_pattern(
    family: str, effort: Effort, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = make_model(family)
    spec = spec_for(folder, effort=effort, permute=False)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path / "cache")

    dense, pruned = stored(folder), stored(tmp_path / "out")
    assert dense.keys() == pruned.keys()
    assert all(dense[k].shape == pruned[k].shape and dense[k].dtype == pruned[k].dtype for k in dense)
    changed = {k for k in dense if not torch.equal(dense[k], pruned[k])}
    if effort is Effort.FAST:  # what is left of a changed tensor is the dense weight, bit for bit
        assert all(torch.equal(pruned[k][pruned[k] != 0], dense[k][pruned[k] != 0]) for k in changed)
    assert changed, "nothing was pruned"
    assert not any("embed" in k or "lm_head" in k or "norm" in k or "router" in k for k in changed)
    zeros = sum(int((pruned[k] == 0).sum() - (dense[k] == 0).sum()) for k in dense)
    assert zeros == sum(layer.shape[0] * layer.shape[1] // 2 for layer in report.layers)

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    AutoTokenizer.from_pretrained(tmp_path / "out")
    for layer in report.layers:
        # Experts that saw no token are held to the constraint as well.
        assert layer.min_input_degree >= 2, layer.name
        W = _weight(model, layer.name)
        assert W.shape == layer.shape
        groups = (W != 0).reshape(-1, 4).sum(dim=1)
        assert bool((groups == 2).all()), layer.name
    assert report.evaluation is not None
    assert report.evaluation.texts[0].kl_divergence > 0
    assert report.sparsity.pruned_layers == pytest.approx(0.5)


def _weight(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The weight that a report's layer names, as (C_out, C_in)."""
    if name.rsplit(".", 1)[-1].isdigit():
        parameter, expert = name.rsplit(".", 1)
        weight = model.get_parameter(parameter)[int(expert)]
        return weight.T if model.get_submodule(parameter.rsplit(".", 1)[0]).is_transposed else weight
    module = model.get_submodule(name)
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


@pytest.mark.parametrize("family", MOE)
def test_experts_are_stored_as_they_were(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Checkpoints of these families hold a matrix per expert, models one fused parameter."""
    folder = make_model(family)
    assert any(".experts.0." in name for name in stored(folder)), "the checkpoint holds fused experts"
    report = prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    experts = [layer for layer in report.layers if ".experts." in layer.name]
    assert {layer.type for layer in experts} == {"gate_up_proj", "down_proj"}
    assert any(layer.calibration_tokens for layer in experts)


def test_expert_without_tokens_is_ranked_by_weights_alone(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("qwen3_moe", num_experts=64)
    short = {"samples": 1, "sequence_length": 8}
    spec = spec_for(folder, calibration=CalibrationSpec(**short), evaluation=None)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    unseen = [layer for layer in report.layers if layer.calibration_tokens == 0]
    seen = [layer for layer in report.layers if layer.calibration_tokens]
    assert unseen, "8 tokens reach at most 16 of 64 experts in a block"
    assert all(layer.importance == "weight-only" and layer.relative_output_error is None for layer in unseen)
    assert all(layer.importance == "ria" and layer.relative_output_error is not None for layer in seen)
    assert any("saw no calibration token" in note for note in report.notes)


def test_experts_of_unknown_orientation_are_refused_by_name(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model("llama4_text", head_dim=8, num_local_experts=2, intermediate_size_mlp=64)
    with pytest.raises(UnsupportedModel, match=r"layers\.0\.feed_forward\.experts\.gate_up_proj.*to ignore"):
        prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    report = prune(spec_for(folder, ignore=("*.experts.*", "*.router")), tmp_path / "out", cache_dir=tmp_path)
    assert {layer.type for layer in report.layers} >= {"q_proj", "down_proj"}


def test_experts_that_lie_one_below_the_other_are_refused_by_name(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model(
        "dbrx",
        d_model=32,
        n_heads=4,
        n_layers=2,
        max_seq_len=128,
        attn_config={"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8},
        ffn_config={"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    )
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.ffn\.experts\.mlp\.w1.*to ignore"):
        prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    report = prune(spec_for(folder, ignore=("*.experts.*", "*.router*")), tmp_path / "out", cache_dir=tmp_path)
    assert {layer.type for layer in report.layers} == {"Wqkv", "out_proj"}


def test_convolutions_are_no_experts(make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model(
        "qwen3_next",
        head_dim=8,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
        layer_types=["linear_attention", "full_attention"],
    )
    report = prune(spec_for(folder), tmp_path / "out", cache_dir=tmp_path)
    assert not any("conv" in layer.name for layer in report.layers)
    assert any("linear_attn" in layer.name for layer in report.layers)


@pytest.mark.parametrize("family", ["mixtral", "gpt2", "llama"])
def test_checkpoints_of_the_base_model_alone(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    """Their names lack the base model's prefix; their output head is the embedding."""
    folder = make_model(family, tie_word_embeddings=True)
    base = tmp_path / "base"
    AutoModel.from_pretrained(folder).save_pretrained(base)
    AutoTokenizer.from_pretrained(folder).save_pretrained(base)
    prune(spec_for(folder), tmp_path / "whole", cache_dir=tmp_path)
    prune(spec_for(base), tmp_path / "out", cache_dir=tmp_path)
    assert stored(tmp_path / "out").keys() == stored(base).keys()
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "whole").state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_layers_that_share_inputs_see_the_same_tokens(make_model: MakeModel, tmp_path: Path) -> None:
    report = prune(spec_for(make_model("llama")), tmp_path / "out", cache_dir=tmp_path)
    assert {layer.calibration_tokens for layer in report.layers} == {4 * 48}


@pytest.mark.parametrize("method", Method)
def test_methods_differ_and_magnitude_needs_no_activations(
    method: Method, make_model: MakeModel, tmp_path: Path
) -> None:
    spec = spec_for(make_model("llama"), method=method, min_degree=None)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    by_ria = method in (Method.EGGS, Method.SPARSEGPT)
    assert {layer.importance for layer in report.layers} == {"ria" if by_ria else str(method)}
    assert (report.min_degree > 0) == (method is Method.EGGS)


@pytest.mark.parametrize("family", ["gpt2", "gpt_oss"])
def test_magnitude_of_weights_stored_transposed(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model(family), method=Method.MAGNITUDE, min_degree=None, evaluation=None)
    assert prune(spec, tmp_path / "out", cache_dir=tmp_path).sparsity.pruned_layers == pytest.approx(0.5)


def test_shards_are_finished_files(make_model: MakeModel, tmp_path: Path) -> None:
    prune(spec_for(make_model("llama")), tmp_path / "out", cache_dir=tmp_path)
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert [s.name for s in shards] == [f"model-{i:05d}-of-00003.safetensors" for i in (1, 2, 3)]
    with safe_open(shards[1], framework="pt") as shard:
        assert {name.split(".")[2] for name in shard.keys()} == {"0"}  # noqa: SIM118
