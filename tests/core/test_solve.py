"""What becomes of single layers."""

from typing import Any

import pytest
import torch
from torch import nn

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
