"""What choosing masks and weights takes, against what `prune_layers` says that it takes."""

import json
import subprocess
import sys

import pytest

from eggs_core.solve import GRAM_SHARE, WEIGHT_SHARE, WORKING_BYTES
from eggs_core.statistics import SAMPLED_TOKENS

METHODS = {
    "ria": {"method": "ria"},
    "sparsegpt": {"method": "sparsegpt"},
    "fast": {"effort": "fast"},
    "balanced": {"effort": "balanced"},
}
WITH_GRAM = ("sparsegpt", "balanced")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 4096), (2048, 2048)], ids=str)
def test_peak_memory_is_as_stated(method: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    words = [str(rows), str(columns), json.dumps(METHODS[method])]
    run = subprocess.run(
        [sys.executable, "-m", "tests.core.peak_of_choosing", *words], capture_output=True, text=True, check=True
    )
    weights = rows * columns
    layer = 2 * weights + 2 * SAMPLED_TOKENS * columns
    stated = layer + WEIGHT_SHARE * weights + WORKING_BYTES
    if method in WITH_GRAM:
        stated += GRAM_SHARE * columns**2
    assert int(run.stdout) < stated
    if method in WITH_GRAM and rows < columns:
        assert int(run.stdout) > 8 * columns**2, "a Gram matrix and a factor of it are what counts here"
