"""Layers pruned on a GPU are those pruned on a CPU, up to rounding; and the host does not wait for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from eggs_core.layers import prunable_layers
from eggs_core.report import LayerReport
from eggs_core.solve import layer_reports, prune_layers
from eggs_core.spec import PruneSpec
from eggs_core.statistics import InputStatistics

ROWS, COLUMNS, TOKENS = 96, 128, 512


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """While open, what has the host wait for a GPU raises an error."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


def reports_of(spec: PruneSpec, device: torch.device) -> list[LayerReport]:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randn(COLUMNS, generator=generator).exp()
    linear = {name: nn.Linear(COLUMNS, ROWS, bias=False) for name in ("up", "gate")}
    for layer in linear.values():
        layer.weight.data = torch.randn(ROWS, COLUMNS, generator=generator).bfloat16()
    module = nn.ModuleDict(linear).requires_grad_(False).to(device)
    statistics = InputStatistics(keep_every=1, with_gram=True)
    statistics.add((torch.randn(TOKENS, COLUMNS, generator=generator) * sizes).bfloat16().to(device))
    layers = prunable_layers(module, "block", ())
    prune_layers(layers, statistics, spec)  # compiles the kernels
    with no_waiting(device):
        pruned = prune_layers(layers, statistics, spec)
    for entry in pruned:
        assert bool((entry.mask.view(ROWS, -1, spec.pattern.m).sum(dim=2) == spec.pattern.n).all())
        assert not bool(entry.weights[~entry.mask].any())
    return layer_reports(pruned, 0, spec)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@on_a_gpu
@pytest.mark.parametrize("pattern", ["2:4", "3:8", "1:32"])
@pytest.mark.parametrize(
    "asked",
    [
        {"method": "ria"},
        {"method": "sparsegpt"},
        {"effort": "fast", "min_degree": "auto"},
        {"effort": "balanced", "min_degree": "auto"},
        {"effort": "balanced", "min_degree": 2},
    ],
    ids=str,
)
def test_as_on_a_cpu(asked: dict[str, Any], pattern: str) -> None:
    spec = PruneSpec(model="none", pattern=pattern, **asked)
    on_cpu, on_gpu = (reports_of(spec, torch.device(device)) for device in ("cpu", "cuda"))
    for expected, found in zip(on_cpu, on_gpu, strict=True):
        assert found.min_input_degree >= found.min_degree
        assert found.duality_gap < 1e-9
        assert abs(found.min_degree - expected.min_degree) <= 1  # rounding may tip what is within the tolerance
        assert found.kept_importance == pytest.approx(expected.kept_importance, rel=0.01)
        assert found.relative_output_error == pytest.approx(expected.relative_output_error, rel=0.05)
