"""Reordered channels: the same outputs for every family, no worse masks, and a checkpoint that says the same."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.importance import ria
from eggs_core.layers import prunable_layers
from eggs_core.masks import best_score, top_n_mask
from eggs_core.model_folder import ModelFolder
from eggs_core.pattern import NMPattern
from eggs_core.permute import GROUPS_AT_ONCE, Site, SiteFinder, apply, best_order, best_permutations
from eggs_core.pipeline import prune
from eggs_core.skeleton import Skeleton
from eggs_core.spec import DEFAULT_IGNORE, CalibrationSpec, Effort, EvaluationSpec, Method, PruneSpec
from eggs_core.statistics import InputStatistics
from eggs_core.stream import BlockCall, BlockStream
from eggs_core.text import token_windows
from tests.core.mask_problems import both_ways, computed_by, patterns, scores
from tests.tiny_models import FAMILIES, MakeModel

CPU = torch.device("cpu")
SHORT = EvaluationSpec(samples=4, sequence_length=48)
ATTENTION = "v_proj → o_proj"
MLP = "gate_proj, up_proj → down_proj"
EXPERTS = "gate_up_proj → down_proj"
# Of each block: the layers of its sites, by kind.
SITES = {family: {ATTENTION, MLP} for family in FAMILIES} | {
    "gemma3n_text": {MLP, "linear_left → linear_right"},
    "gemma4_text": {MLP},
    "phi3": {"qkv_proj → o_proj", "gate_up_proj → down_proj"},
    "gpt2": {"c_attn → c_proj", "c_fc → c_proj"},
    "gpt_neox": {"query_key_value → dense", "dense_h_to_4h → dense_4h_to_h"},
    "opt": {"v_proj → out_proj", "fc1 → fc2"},
    "falcon": {"query_key_value → dense", "dense_h_to_4h → dense_4h_to_h"},
    "mixtral": {ATTENTION, EXPERTS},
    "gpt_oss": {ATTENTION, EXPERTS},
    "qwen3_moe": {ATTENTION, EXPERTS},
}
# The blocks whose keys and values later ones read.
LEAVING = dict.fromkeys(("gemma3n_text", "gemma4_text"), ("model.layers.0.", "model.layers.1."))


def visit_sites(
    folder: Path, visit: Callable[[Skeleton, int, nn.Module, BlockCall, list[Site], list[Tensor]], None]
) -> None:
    """Calls `visit` for every block, loaded, with its sites and the hidden states that enter it."""
    skeleton = Skeleton(Checkpoint(folder), CPU)
    tokens = torch.randint(1, 300, (4, 40), generator=torch.Generator().manual_seed(1))
    stream = BlockStream(skeleton, tokens)
    hidden = stream.embed()
    finder = SiteFinder(skeleton.config)

    def at_block(index: int, block: nn.Module, call: BlockCall) -> None:
        layers = prunable_layers(block, skeleton.block_names[index], DEFAULT_IGNORE)
        before = {name: parameter.clone() for name, parameter in block.named_parameters()}
        sites = finder.find(block, layers, call, hidden[0])
        call(hidden[0])
        if call.leaves:  # keys and values, which later blocks would get in another order
            sites = []
        assert all(torch.equal(before[name], parameter) for name, parameter in block.named_parameters())
        visit(skeleton, index, block, call, sites, hidden)
        for i, states in enumerate(hidden):
            hidden[i] = call(states)

    with torch.no_grad():
        stream.run(at_block)


def random_order(site: Site) -> Tensor:
    scores = torch.rand(site.consumer.shape, generator=torch.Generator().manual_seed(0))
    return best_order(site, scores, NMPattern(2, 4))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_compute_the_same(family: str, dtype: str, make_model: MakeModel) -> None:
    tolerance = {"float32": 1e-5, "bfloat16": 3e-2}[dtype]

    def visit(
        skeleton: Skeleton, index: int, block: nn.Module, call: BlockCall, sites: list[Site], hidden: list[Tensor]
    ) -> None:
        assert {site.kind for site in sites} == (set() if call.leaves else SITES[family])
        for name, parameter in block.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.2)  # zeros would not show that they stayed behind
        prefix = f"{skeleton.block_names[index]}."
        for site in sites:
            before = {prefix + name: parameter.clone() for name, parameter in block.named_parameters()}
            dense = call(hidden[0]).float()
            order = random_order(site)
            assert not torch.equal(order, torch.arange(len(order)))
            changed = apply(site, order)
            now = {prefix + name: parameter for name, parameter in block.named_parameters()}
            assert changed.keys() == {name for name in now if not torch.equal(now[name], before[name])}
            assert (call(hidden[0]).float() - dense).norm() <= tolerance * dense.norm()

    visit_sites(make_model(family, dtype=dtype), visit)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_permuted_checkpoint_is_the_same_model(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    """What `apply` says that changed is all that has to be written."""
    folder = make_model(family)
    skeleton = Skeleton(Checkpoint(folder), CPU)
    writer = CheckpointWriter(tmp_path, len(skeleton.blocks) + 1)
    writer.write(0, skeleton.checkpoint.read(skeleton.names_outside))

    def visit(
        skeleton: Skeleton, index: int, block: nn.Module, call: BlockCall, sites: list[Site], hidden: list[Tensor]
    ) -> None:
        changed: dict[str, Tensor] = {}
        for site in sites:
            changed |= apply(site, random_order(site))
        writer.write(index + 1, skeleton.checkpoint_tensors(index, changed))

    visit_sites(folder, visit)
    writer.finish()
    ModelFolder(folder).copy_companions(tmp_path)
    stored = (Checkpoint(folder), Checkpoint(tmp_path))
    dense, permuted = (checkpoint.read(checkpoint.file_of) for checkpoint in stored)
    moved = {name for name in dense if not torch.equal(dense[name], permuted[name])}
    assert moved
    assert all(torch.equal(dense[name].flatten().sort()[0], permuted[name].flatten().sort()[0]) for name in moved)

    tokens = torch.randint(1, 300, (2, 30))
    with torch.no_grad():
        own, ours = (
            AutoModelForCausalLM.from_pretrained(path).eval()(tokens).logits for path in (folder, tmp_path)
        )
    assert torch.allclose(own, ours, atol=1e-4, rtol=1e-4)


def test_a_norm_between_two_layers_is_seen(make_model: MakeModel) -> None:
    """Its weights are all ones as the model is made, so that these weights alone would not show it."""

    def visit(
        skeleton: Skeleton, index: int, block: nn.Module, call: BlockCall, sites: list[Site], hidden: list[Tensor]
    ) -> None:
        assert sites == []

    visit_sites(make_model("bitnet"), visit)


def test_values_move_within_a_head_and_alike_in_the_heads_that_share_them(make_model: MakeModel) -> None:
    def visit(
        skeleton: Skeleton, index: int, block: nn.Module, call: BlockCall, sites: list[Site], hidden: list[Tensor]
    ) -> None:
        site = next(site for site in sites if site.kind == ATTENTION)
        head = random_order(site).view(2, 2, 8) - torch.arange(0, 32, 8).view(2, 2, 1)
        assert bool(((head >= 0) & (head < 8)).all()), "a channel left its head"
        assert torch.equal(head[:, 0], head[:, 1]), "query heads of one group differ"
        assert not torch.equal(head[0], head[1]), "heads of different groups have no need to agree"

    visit_sites(make_model("llama"), visit)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, NMPattern]:
    pattern = draw(patterns(max_m=8))
    return draw(scores(pattern, max_groups=6)), pattern


def permutation(S: Tensor, pattern: NMPattern) -> Tensor:
    return best_permutations(S[None], pattern)[0]


@given(problems())
def test_permutations_are_bijections_and_never_keep_less(problem: tuple[Tensor, NMPattern]) -> None:
    S, pattern = problem
    before = S.clone()
    order = permutation(S, pattern)
    assert torch.equal(order.sort()[0], torch.arange(S.shape[1]))
    assert best_score(S[:, order], pattern) >= best_score(S, pattern)
    assert torch.equal(S, before), "the scores were changed"
    assert torch.equal(order, permutation(S, pattern)), "not identical on repeat"


def test_sets_are_permuted_each_for_itself() -> None:
    S = torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(0))
    pattern = NMPattern(2, 4)
    together = best_permutations(S, pattern)
    assert torch.equal(together, torch.stack([permutation(part, pattern) for part in S]))


@both_ways
@pytest.mark.parametrize("groups", [1, 7, 2 * GROUPS_AT_ONCE - 1])
def test_any_number_of_groups_gains(groups: int, way: str) -> None:
    S = torch.rand(10, 4 * groups, generator=torch.Generator().manual_seed(0))
    pattern = NMPattern(2, 4)
    with computed_by(way):
        order = permutation(S, pattern)
    assert torch.equal(order.sort()[0], torch.arange(S.shape[1]))
    assert best_score(S[:, order], pattern) > (best_score(S, pattern) if groups > 1 else 0)


@given(problems())
def test_kept_is_what_the_mask_keeps(problem: tuple[Tensor, NMPattern]) -> None:
    S, pattern = problem
    assert best_score(S, pattern) == pytest.approx(float(S[top_n_mask(S, pattern)].double().sum()))


@pytest.mark.parametrize("pattern", [NMPattern(1, 4), NMPattern(2, 4), NMPattern(4, 8)], ids=str)
def test_columns_that_can_all_be_kept_nearly_all_are(pattern: NMPattern) -> None:
    """Each row needs N·G columns, a set of few kinds; some order has N of each row's in every group.

    The search is a heuristic that one draw in hundreds leads to keep no more than nine tenths.
    """
    groups = 6
    shares = []
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        kind = torch.arange(pattern.m).repeat(groups)[torch.randperm(groups * pattern.m, generator=generator)]
        first = torch.randint(0, pattern.m, (20,), generator=generator)
        S = ((kind - first[:, None]) % pattern.m < pattern.n).float()  # row r wants kinds first … first + N - 1
        shares.append(best_score(S[:, permutation(S, pattern)], pattern) / float(S.sum()))
    assert min(shares) >= 0.9
    assert sum(shares) / len(shares) >= 0.99


def test_width_that_m_does_not_divide_stays() -> None:
    """A head of 6 channels, say, in a layer whose width M divides."""
    assert torch.equal(permutation(torch.rand(4, 6), NMPattern(2, 4)), torch.arange(6))


def test_statistics_of_reordered_inputs() -> None:
    X, order = torch.randn(50, 8), torch.randperm(8)
    reordered, fresh = (InputStatistics(keep_every=3, with_gram=True) for _ in range(2))
    reordered.add(X)
    reordered.permute(order)
    fresh.add(X[:, order])
    assert torch.allclose(reordered.norm, fresh.norm)
    assert torch.allclose(reordered.gram, fresh.gram, atol=1e-4)
    assert torch.equal(reordered.sample, fresh.sample)
    for statistics in (reordered, fresh):
        statistics.add(2 * X[:, order])
    assert torch.allclose(reordered.gram, fresh.gram, atol=1e-4), "what comes later is not added in its place"


def spec_for(model: Path, **changes: object) -> PruneSpec:
    short = CalibrationSpec(samples=4, sequence_length=48)
    return PruneSpec(**({"model": str(model), "calibration": short, "evaluation": None} | changes))


@pytest.mark.parametrize("family", FAMILIES)
def test_pruning_keeps_more_of_the_layers_it_reorders(family: str, make_model: MakeModel, tmp_path: Path) -> None:
    folder = make_model(family)
    totals: dict[bool, dict[str, float]] = {}
    for permute in (False, True):
        out = tmp_path / str(permute)
        report = prune(spec_for(folder, method=Method.MAGNITUDE, permute=permute), out, cache_dir=tmp_path)
        assert report.sparsity.pruned_layers == pytest.approx(0.5)
        model = AutoModelForCausalLM.from_pretrained(out).eval().requires_grad_(False)
        assert bool(model(torch.arange(1, 20)[None]).logits.isfinite().all())
        # A parameter that holds experts has no ".weight"; its name is the layer's.
        totals[permute] = {
            name.removesuffix(".weight"): float(parameter.abs().sum())
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1
        }
    gain = {name: total / totals[False][name] for name, total in totals[True].items()}
    consumers = {kind.split(" → ")[1] for kind in SITES[family]}
    for name, ratio in gain.items():
        if name.rpartition(".")[2] in consumers and not name.startswith(LEAVING.get(family, ())):
            assert ratio > 1, name
        else:
            assert ratio == pytest.approx(1, abs=1e-5), name


def test_masks_are_chosen_with_the_norms_of_the_reordered_inputs(make_model: MakeModel, tmp_path: Path) -> None:
    """Found again from outside: which channel went where from the weights kept, norms from the dense model."""
    folder = make_model("llama")
    spec = spec_for(folder, method=Method.RIA, permute=True)
    prune(spec, tmp_path / "out", cache_dir=tmp_path)
    dense = AutoModelForCausalLM.from_pretrained(folder).requires_grad_(False)
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "out").requires_grad_(False)
    tokens = token_windows(
        spec.calibration,
        "calibration",
        AutoTokenizer.from_pretrained(folder),
        text_roots=None,
        cache_dir=tmp_path,
    )
    for name in ("model.layers.0.mlp.down_proj", "model.layers.0.self_attn.o_proj"):
        inputs: list[Tensor] = []
        layer = dense.get_submodule(name)
        with layer.register_forward_pre_hook(lambda module, args, inputs=inputs: inputs.append(args[0])):
            dense(tokens)
        norm = inputs[0].flatten(0, 1).norm(dim=0)
        W, kept_weights = layer.weight, pruned.get_submodule(name).weight
        same = (kept_weights[:, :, None] == W[:, None, :]) | (kept_weights == 0)[:, :, None]
        came_from = same.all(dim=0)  # (new channel, old channel)
        assert bool((came_from.sum(dim=1) == 1).all())
        order = came_from.int().argmax(dim=1)
        assert not torch.equal(order, torch.arange(len(order)))
        assert torch.equal(kept_weights != 0, top_n_mask(ria(W[:, order], norm[order]), spec.pattern)), name


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss", "mixtral"])
@pytest.mark.parametrize("effort", [Effort.FAST, Effort.BALANCED])
def test_efforts_of_eggs_on_reordered_channels(
    family: str, effort: Effort, make_model: MakeModel, tmp_path: Path
) -> None:
    """Masks, edges and Gram matrices follow: transformers computes from the folder what the report says."""
    spec = spec_for(make_model(family), effort=effort, min_degree=2, evaluation=SHORT)
    assert spec.permutes
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert min(layer.min_input_degree for layer in report.layers) >= 2
    assert report.sparsity.pruned_layers == pytest.approx(0.5)
    tokens = token_windows(
        SHORT.texts[0],
        "evaluation",
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        text_roots=None,
        cache_dir=tmp_path,
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        loss = model(input_ids=tokens, labels=tokens).loss
    assert report.evaluation is not None
    assert report.evaluation.texts[0].perplexity.pruned == pytest.approx(float(loss.exp()), rel=1e-3)


@pytest.mark.parametrize("ignored", ["*.experts.gate_up_proj.0", "*.experts.down_proj.1"])
def test_one_expert_may_stay_dense(ignored: str, make_model: MakeModel, tmp_path: Path) -> None:
    spec = spec_for(make_model("mixtral"), ignore=["lm_head", ignored], evaluation=None)
    report = prune(spec, tmp_path / "out", cache_dir=tmp_path)
    assert not [layer for layer in report.layers if layer.name.endswith(ignored.removeprefix("*"))]
    assert [layer for layer in report.layers if layer.name.endswith(".experts.down_proj.0")]
