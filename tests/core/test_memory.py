"""What it takes to gather statistics, to choose masks and weights, and to train them, against what is stated."""

from itertools import pairwise

import pytest

from eggs_core.prune import BLOCK_SHARE
from eggs_core.reconstruct import TRAINING_SHARE
from eggs_core.solve import GRAM_SHARE, WEIGHT_SHARE, WORKING_BYTES
from eggs_core.statistics import GATHERING_BYTES, SAMPLED_TOKENS
from tests.core.peak_of_pruning import block, choosing, gathering, peak, training
from tests.tiny_models import MakeModel

METHODS = {
    "ria": {"method": "ria"},
    "sparsegpt": {"method": "sparsegpt"},
    "fast": {"effort": "fast"},
    "balanced": {"effort": "balanced"},
}
WITH_GRAM = ("sparsegpt", "balanced")


# Rows of the layers that read one input, and its width.
SHAPES = [([64], 4096), ([2048], 2048), ([1024, 512, 512], 2048)]
# A Gram matrix of it takes minutes to invert.
WIDE = ([64], 11008)
CHOICES = [
    *((method, shape) for method in METHODS for shape in SHAPES),
    *((method, WIDE) for method in METHODS if method not in WITH_GRAM),
]


@pytest.mark.parametrize(("method", "shape"), CHOICES, ids=str)
def test_choosing_takes_what_is_stated(method: str, shape: tuple[list[int], int]) -> None:
    rows, columns = shape
    found = peak(choosing, rows, columns, METHODS[method])
    weights = sum(rows) * columns
    stated = 2 * weights + sample(columns) + WEIGHT_SHARE * weights + WORKING_BYTES
    if method in WITH_GRAM:
        stated += GRAM_SHARE * columns**2
    assert found < stated
    if method in WITH_GRAM and sum(rows) < columns:
        assert found > 8 * columns**2, "a Gram matrix and a factor of it are what counts here"


@pytest.mark.parametrize(("columns", "with_gram"), [(11008, True), (28672, False)])
def test_gathering_takes_what_is_stated(columns: int, with_gram: bool) -> None:
    held = sample(columns) + 4 * columns**2 * with_gram
    assert peak(gathering, columns, with_gram) < held + GATHERING_BYTES


def sample(columns: int) -> int:
    """Bytes of the inputs that are kept."""
    return 2 * SAMPLED_TOKENS * columns


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("widths", [(4096, 2048), (2048, 2048, 2048, 1024)], ids=str)
def test_training_takes_what_is_stated(widths: tuple[int, ...], dtype: str) -> None:
    weights = sum(a * b for a, b in pairwise(widths))
    small_batches = 16 << 20
    assert peak(training, widths, dtype) < TRAINING_SHARE * weights + small_batches


@pytest.mark.parametrize("method", ["ria", "sparsegpt"])
def test_a_block_of_experts_takes_what_is_stated(method: str, make_model: MakeModel) -> None:
    hidden, inner, experts = 512, 1024, 8
    shape = {"hidden_size": hidden, "intermediate_size": inner, "num_local_experts": experts}
    folder = make_model("mixtral", dtype="bfloat16", num_hidden_layers=1, **shape)
    small = make_model("mixtral", dtype="bfloat16", num_hidden_layers=1)
    gate_and_up = 2 * inner * hidden
    weights = 3 * hidden**2 + experts * (gate_and_up + hidden * inner)
    stated = BLOCK_SHARE * weights + WEIGHT_SHARE * gate_and_up + WORKING_BYTES
    if method in WITH_GRAM:
        stated += 4 * ((2 + experts) * hidden**2 + experts * inner**2) + GRAM_SHARE * inner**2
    assert peak(block, str(small), str(folder), METHODS[method]) < stated
