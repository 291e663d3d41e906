"""On a GPU layers are pruned with no word to the host: the meta device has no data, so there nothing can be read.

But for what Triton's kernels do (test_triton.py).
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from eggs_core import assignment
from eggs_core.diagonals import diagonal_mask
from eggs_core.errors import BrokenCheckpoint
from eggs_core.importance import importance
from eggs_core.joint import OutputError, choose, fit
from eggs_core.kernels import triton_b_matching
from eggs_core.layers import PrunableLayer, prunable_layers
from eggs_core.masks import input_degrees, nearest, top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.permute import Producer, Site, apply, best_order
from eggs_core.solve import FIGURES, PrunedLayer, after_training, layer_reports, prune_layers
from eggs_core.sparsegpt import sparsegpt
from eggs_core.spec import Effort, Method, PruneSpec
from eggs_core.statistics import InputStatistics

META = torch.device("meta")
PATTERN = NMPattern(2, 4)


class _Waiting(TorchDispatchMode):
    """Refuses what has the host wait for a GPU though it reads nothing of it: to hear whether a matrix has a
    factor or a decomposition converged, and to bring it a tensor, unless that is said not to block."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert not any(name in str(func) for name in ("check_errors", "cholesky_inverse", "svd", "eig")), func
        kwargs = kwargs or {}
        assert "linalg_cholesky" not in str(func) or not kwargs.get("check_errors"), func
        result = func(*args, **kwargs)
        given, found = (
            {tensor.device.type for tensor in tree_leaves(tree) if isinstance(tensor, Tensor) and tensor.dim()}
            for tree in ((args, kwargs), result)
        )
        assert not ("cpu" in given and "meta" in given | found) or _non_blocking(func, args, kwargs), func
        return result


def _non_blocking(func: Any, args: Any, kwargs: Any) -> bool:
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    return bool(given.get("non_blocking"))


@pytest.fixture(autouse=True)
def _the_host_hears_nothing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def take(S: Tensor, degree: Tensor, most: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
        groups = S.shape[1] // pattern.m
        shape = groups, pattern.m, len(S)
        return S.new_empty(shape, dtype=torch.int64), S.new_empty(groups, dtype=torch.float64)

    monkeypatch.setattr(assignment, "_auction", lambda cost, price, step: price.argsort(dim=1))
    monkeypatch.setattr(triton_b_matching, "take", take)
    monkeypatch.setattr(triton_b_matching, "solve", lambda *arguments: None)
    with _Waiting():
        yield


def layers(dtype: torch.dtype) -> list[PrunableLayer]:
    module = nn.ModuleDict(
        {name: nn.Linear(128, 96, bias=False, dtype=dtype, device=META) for name in ("up", "gate")}
    )
    return prunable_layers(module.requires_grad_(False), "block", ())


@pytest.fixture(params=[torch.bfloat16, torch.float16, torch.float32], ids=str)
def weights(request: pytest.FixtureRequest) -> Tensor:
    return torch.empty(96, 128, dtype=request.param, device=META)


@pytest.fixture
def statistics(weights: Tensor) -> InputStatistics:
    found = InputStatistics(keep_every=3, with_gram=True)
    for batch in (4, 1):
        found.add(torch.empty(batch, 32, 128, dtype=weights.dtype, device=META))
    found.permute(torch.arange(128, device=META))
    return found


@pytest.mark.parametrize("method", Method)
def test_importance_and_masks(method: Method, weights: Tensor, statistics: InputStatistics) -> None:
    S = importance(method, weights, statistics.norm)
    mask = top_n_mask(S, PATTERN)
    rising, rows = nearest(S, mask, torch.arange(5, device=META), PATTERN, 7)
    for tensor in (S, mask, input_degrees(mask), rising, rows, diagonal_mask(S, PATTERN, 2)):
        assert tensor.device == META


def test_mask_and_weights_together(weights: Tensor, statistics: InputStatistics) -> None:
    error = OutputError(statistics.gram)
    Y = choose(weights, error, PATTERN)
    pruned = fit(weights, Y, top_n_mask(Y.square(), PATTERN), error)
    assert error.of(weights, pruned).device == META
    assert all(tensor.device == META for tensor in sparsegpt(weights, statistics.gram, PATTERN))


def asked_for() -> Iterator[dict[str, Any]]:
    yield from ({"method": method} for method in Method if method is not Method.EGGS)
    for effort in Effort:
        yield from ({"effort": effort, "min_degree": degree} for degree in (0, 7, "auto"))


@pytest.mark.parametrize("asked", list(asked_for()), ids=str)
@pytest.mark.parametrize("calibrated", [True, False])
def test_layers(asked: dict[str, Any], calibrated: bool, weights: Tensor, statistics: InputStatistics) -> None:
    spec = PruneSpec(model="none", pattern="2:4", **asked)
    pruned = prune_layers(layers(weights.dtype), statistics if calibrated else None, spec)
    for entry in (*pruned, *map(after_training, pruned)):
        assert entry.weights.dtype is weights.dtype
        assert {tensor.device for tensor in (entry.weights, entry.mask, entry.figures)} == {META}
    with pytest.raises(NotImplementedError, match="meta"):
        layer_reports(pruned, 0, spec)  # the only word


def test_the_order_of_channels(weights: Tensor) -> None:
    up, gate = layers(weights.dtype)
    linear = nn.Linear(96, 128, bias=False, dtype=weights.dtype, device=META)
    (down,) = prunable_layers(nn.ModuleDict({"down": linear.requires_grad_(False)}), "block", ())
    every = torch.arange(96)
    site = Site(down, tuple(Producer(layer, every[None]) for layer in (up, gate)), every.view(1, 1, 96))
    order = best_order(site, importance(Method.EGGS, down.weight, None), PATTERN)
    assert {changed.device for changed in (order, *apply(site, order).values())} == {META}


def test_what_is_not_finite_is_told_at_the_end() -> None:
    layer, _ = layers(torch.float32)
    figures = torch.ones(FIGURES, dtype=torch.float64)
    found = PrunedLayer(layer, layer.weight, layer.weight > 0, figures, tokens=3)
    spec = PruneSpec(model="none")
    assert layer_reports([found], 0, spec)[0].name == "block.up"
    figures[0] = 0
    with pytest.raises(BrokenCheckpoint, match=r"block\.up"):
        layer_reports([found], 0, spec)
