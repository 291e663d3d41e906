"""Semi-structured products on a GPU: which are chosen, and what a layer holds. Some of it needs one to run on."""

import copy
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

from eggs_core.kernels import semi_structured
from eggs_core.kernels.semi_structured import Backend
from eggs_core.large_batches import Measured, backends, bytes_besides, choose_products, medians
from eggs_core.packed_linear import SMALL_BATCH
from eggs_core.pattern import NMPattern
from tests.core.packed_layers import TWO_OF_FOUR, packed

GPU = torch.device("cuda")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize(
    ("dense", "unpacked", "sparse", "chosen"),
    [
        (2.0, 3.0, {Backend.CUSPARSELT: 1.2, Backend.CUTLASS: 1.0}, Backend.CUTLASS),
        (2.0, 3.0, {Backend.CUSPARSELT: 1.0, Backend.CUTLASS: 1.2}, Backend.CUSPARSELT),
        (2.0, 3.0, {Backend.CUSPARSELT: 1.95}, None),  # as fast as dense, within what times scatter by
        (2.0, 3.0, {Backend.CUSPARSELT: 2.5}, None),  # faster than today, and slower than dense
        (3.0, 2.0, {Backend.CUSPARSELT: 2.5}, None),
        (2.0, 3.0, {}, None),
    ],
)
def test_what_is_chosen_is_faster_than_both(
    dense: float, unpacked: float, sparse: dict[Backend, float], chosen: Backend | None
) -> None:
    assert Measured(dense, unpacked, sparse).chosen is chosen


@pytest.mark.parametrize(
    ("shape", "dtype", "pattern", "device", "eligible"),
    [
        ((4096, 11008), torch.bfloat16, TWO_OF_FOUR, GPU, True),
        ((4096, 11008), torch.float16, TWO_OF_FOUR, GPU, True),
        ((4096, 11008), torch.bfloat16, TWO_OF_FOUR, torch.device("cpu"), False),
        ((4096, 11008), torch.float32, TWO_OF_FOUR, GPU, False),  # where torch's own pattern is 1:2
        ((4096, 11008), torch.bfloat16, NMPattern(4, 8), GPU, False),
        ((4090, 11008), torch.bfloat16, TWO_OF_FOUR, GPU, False),
        ((4096, 11000), torch.bfloat16, TWO_OF_FOUR, GPU, False),
    ],
)
def test_which_layers_have_a_choice(
    shape: tuple[int, int], dtype: torch.dtype, pattern: NMPattern, device: torch.device, eligible: bool
) -> None:
    assert semi_structured.eligible(shape, dtype, pattern, device) is eligible


def test_what_is_timed_takes_turns() -> None:
    calls: Counter[str] = Counter()
    found = medians({name: partial(calls.update, [name]) for name in ("a", "b")})
    assert found.keys() == {"a", "b"}
    assert min(found.values()) > 0
    assert calls["a"] == calls["b"] > 10


def test_nothing_is_held_on_a_cpu() -> None:
    model = nn.Sequential(packed(64, 128), nn.Linear(64, 8))
    choose_products(model)
    assert model[0].compressed is None


def test_what_is_held_is_of_one_place_and_in_no_checkpoint() -> None:
    layer = packed(64, 128)
    before = layer.state_dict().keys()
    layer.compressed = torch.ones(64 * 128 * 9 // 16, dtype=torch.bfloat16)
    assert layer.state_dict().keys() == before
    assert layer.to(torch.bfloat16).compressed is not None
    assert copy.deepcopy(layer).compressed is not None
    assert layer.half().compressed is None


@pytest.mark.parametrize("tokens", [1, SMALL_BATCH + 1])
def test_on_a_cpu_what_is_held_changes_nothing(tokens: int) -> None:
    layer, x = packed(64, 128), torch.randn(tokens, 128).bfloat16()
    expected = layer(x)
    layer.compressed = torch.ones(64 * 128 * 9 // 16, dtype=torch.bfloat16)
    assert torch.equal(layer(x), expected)


def test_what_is_held_besides_is_counted() -> None:
    layer = packed(64, 128)
    assert bytes_besides(layer, None) == 0
    for backend in Backend:
        assert bytes_besides(layer, backend) == layer.weight.nbytes * 0.5625
    assert backends([layer]) == [None]


@on_a_gpu
@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("tokens", [SMALL_BATCH + 1, 512])
def test_products_are_those_of_the_dense_matrix(backend: Backend, tokens: int) -> None:
    layer = packed(256, 512).to(GPU)
    try:
        layer.compress(backend)
    except RuntimeError as error:
        pytest.skip(f"{backend} does not work here: {error}")
    held = [tensor.nbytes for tensor in (layer.compressed, layer.metadata) if tensor is not None]
    assert sum(held) == bytes_besides(layer, backend)
    assert layer.product(tokens) == f"semi-structured, {backend}"
    x = torch.randn(tokens, 512, device=GPU).bfloat16()
    expected = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    torch.testing.assert_close(layer(x).double(), expected, rtol=2e-2, atol=2e-1)


@on_a_gpu
def test_layers_hold_what_was_chosen_for_their_shape() -> None:
    model = nn.Sequential(packed(4096, 4096), packed(4096, 4096), packed(64, 4096)).to(GPU)
    choose_products(model)
    assert (model[0].compressed is None) == (model[1].compressed is None)
