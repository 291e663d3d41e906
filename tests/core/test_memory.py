"""What choosing masks and weights, and training them, takes, against what the code says that it takes."""

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest

from eggs_core.reconstruct import TRAINING_SHARE
from eggs_core.solve import GRAM_SHARE, WEIGHT_SHARE, WORKING_BYTES
from eggs_core.statistics import SAMPLED_TOKENS

METHODS = {
    "ria": {"method": "ria"},
    "sparsegpt": {"method": "sparsegpt"},
    "fast": {"effort": "fast"},
    "balanced": {"effort": "balanced"},
}
WITH_GRAM = ("sparsegpt", "balanced")


def peak(part: str, *arguments: Any) -> int:
    """What that part of pruning takes, in bytes; see `tests.core.peak_of_pruning`."""
    command = [sys.executable, "-m", "tests.core.peak_of_pruning", part, json.dumps(arguments)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(64, 4096), (2048, 2048)], ids=str)
def test_choosing_takes_what_is_stated(method: str, shape: tuple[int, int]) -> None:
    rows, columns = shape
    found = peak("choosing", [rows], columns, METHODS[method])
    weights = rows * columns
    layer = 2 * weights + 2 * SAMPLED_TOKENS * columns
    stated = layer + WEIGHT_SHARE * weights + WORKING_BYTES
    if method in WITH_GRAM:
        stated += GRAM_SHARE * columns**2
    assert found < stated
    if method in WITH_GRAM and rows < columns:
        assert found > 8 * columns**2, "a Gram matrix and a factor of it are what counts here"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("widths", [(4096, 2048), (2048, 2048, 2048, 1024)], ids=str)
def test_training_takes_what_is_stated(widths: tuple[int, ...], dtype: str) -> None:
    weights = sum(a * b for a, b in pairwise(widths))
    small_batches = 16 << 20
    assert peak("training", widths, dtype) < TRAINING_SHARE * weights + small_batches
