"""What calibration gathers, and what it leaves alone."""

import pytest
import torch

from eggs_core.statistics import InputStatistics


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_are_left_as_they_are(dtype: torch.dtype) -> None:
    """The layer that is fed them has yet to run."""
    X = torch.randn(3, 50, 8).to(dtype)
    before = X.clone()
    statistics = InputStatistics(keep_every=7, with_gram=False)
    statistics.add(X)
    assert torch.equal(X, before)
    assert statistics.norm is not None
    assert torch.allclose(statistics.norm, X.float().flatten(0, 1).norm(dim=0))
    assert statistics.sample is not None
    assert torch.equal(statistics.sample, X.flatten(0, 1)[::7])
