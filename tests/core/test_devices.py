"""On a GPU, all that is large is worked on there: on the meta device, which has no data, nothing can be read back.

The constrained mask reads numbers that say how many rows are still open (`eggs_core.matching`), and reports read
their figures; so neither is here.
"""

import pytest
import torch
from torch import Tensor

from eggs_core import assignment
from eggs_core.diagonals import diagonal_mask
from eggs_core.importance import importance
from eggs_core.joint import OutputError, choose, fit
from eggs_core.masks import input_degrees, nearest, top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.permute import best_permutations
from eggs_core.sparsegpt import sparsegpt
from eggs_core.spec import Method
from eggs_core.statistics import InputStatistics

META = torch.device("meta")
PATTERN = NMPattern(2, 4)


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


def test_the_order_of_channels(weights: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the auction, which is a kernel's on a GPU."""
    monkeypatch.setattr(assignment, "_auction", lambda cost, price, step: price.argsort(dim=1))
    assert best_permutations(weights.float()[None], PATTERN).device == META
