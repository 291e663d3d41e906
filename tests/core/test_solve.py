"""What becomes of single layers."""

from typing import Any

import pytest
import torch
from torch import nn

from eggs_core.errors import BrokenCheckpoint
from eggs_core.layers import prunable_layers
from eggs_core.solve import layer_reports, prune_layers
from eggs_core.spec import PruneSpec
from eggs_core.statistics import InputStatistics


@pytest.mark.parametrize("asked", [{"method": "ria"}, {"method": "sparsegpt"}, {"effort": "balanced"}], ids=str)
def test_an_expert_that_is_run_on_no_rows_is_pruned_by_its_weights(asked: dict[str, Any]) -> None:
    """As some models run those to which no token goes."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"w1": nn.Linear(32, 16, bias=False)}).requires_grad_(False)
    layers, spec = prunable_layers(module, "block", ()), PruneSpec(model="none", **asked)
    statistics = InputStatistics(keep_every=1, with_gram=True)
    statistics.add(torch.empty(0, 32))
    (found,), (expected,) = (prune_layers(layers, seen, spec) for seen in (statistics, None))
    assert torch.equal(found.weights, expected.weights)
    (report,) = layer_reports([found], 3, spec)
    assert (report.block, report.importance, report.relative_output_error) == (3, "weight-only", None)


@pytest.mark.parametrize("asked", [{"method": "sparsegpt"}, {"effort": "balanced"}], ids=str)
def test_weights_that_become_too_large_for_their_dtype_are_refused(asked: dict[str, Any]) -> None:
    """Kept ones make good dropped ones as large as they are, and float16 ends at 65504."""
    module = nn.ModuleDict({"w1": nn.Linear(32, 16, bias=False, dtype=torch.float16)}).requires_grad_(False)
    module.w1.weight.fill_(6e4)
    layers, spec = prunable_layers(module, "block", ()), PruneSpec(model="none", **asked)
    statistics = InputStatistics(keep_every=1, with_gram=True)
    statistics.add(torch.ones(8, 32, dtype=torch.float16))
    pruned = prune_layers(layers, statistics, spec)
    with pytest.raises(BrokenCheckpoint, match=r"block\.w1 has weights .* too large"):
        layer_reports(pruned, 3, spec)
