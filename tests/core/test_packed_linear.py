"""What a packed layer takes and gives, beside a dense one: dtypes, autocast, and shapes that do not fit."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from eggs_core.packed_linear import PackedLinear
from tests.core.mask_problems import both_ways, computed_by
from tests.core.packed_layers import TWO_OF_FOUR, packed

FEW, MANY = 3, 40  # on either side of what the kernels take in every dtype
AUTOCAST = torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(autouse=True)
def _with_kernels_or_without(way: str) -> Iterator[None]:
    with computed_by(way):
        yield


pytestmark = [both_ways, pytest.mark.filterwarnings("ignore:eggs was installed without a C compiler")]


def inputs(tokens: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(tokens, 64, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize("of_x", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("of_weights", [torch.float32, torch.bfloat16])
def test_autocast_gives_what_a_dense_layer_gives(tokens: int, of_x: torch.dtype, of_weights: torch.dtype) -> None:
    layer, x = packed(96, 64, of_weights), inputs(tokens, of_x)
    torch.compiler.reset()  # or it counts the recompilations of the other cases
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results, gradients = [], []
    for call in (lambda x: nn.functional.linear(x, layer.weight, layer.bias), layer, compiled):
        leaf = x.clone().requires_grad_()
        with AUTOCAST:
            y = call(leaf)
        y.float().square().sum().backward()
        results.append(y.detach())
        gradients.append(leaf.grad)
        with AUTOCAST, torch.no_grad():
            assert torch.equal(call(x), y)
    for result, gradient in zip(results[1:], gradients[1:], strict=True):
        assert result.dtype is torch.bfloat16
        torch.testing.assert_close(result, results[0], rtol=2e-2, atol=0.15)
        torch.testing.assert_close(gradient, gradients[0], rtol=2e-2, atol=2.0)


@pytest.mark.parametrize("tokens", [FEW, MANY])
def test_x_of_another_dtype_or_size_is_refused(tokens: int) -> None:
    """And not multiplied with what lies beyond it in memory."""
    for of_weights, of_x in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
        with pytest.raises(RuntimeError, match="the packed weights are"):
            packed(96, 64, of_weights)(inputs(tokens, of_x))
    layer = packed(96, 64)
    for narrower in (inputs(tokens, torch.bfloat16)[:, :32], torch.zeros(tokens, 128, dtype=torch.bfloat16)):
        with pytest.raises(RuntimeError, match="but the packed weights 64"):
            layer(narrower)
    assert layer.bias is not None
    layer.bias.data = layer.bias.float()
    with pytest.raises(RuntimeError, match="the bias is"):
        layer(inputs(tokens, torch.bfloat16))


@pytest.mark.parametrize("tokens", [0, FEW, MANY])
def test_tensors_that_are_not_contiguous(tokens: int) -> None:
    layer, x = packed(96, 64), inputs(2 * tokens, torch.bfloat16)
    expected = layer(x[::2].contiguous())
    layer.weight_values.data = layer.weight_values.T.contiguous().T
    layer.weight_mask = layer.weight_mask.T.contiguous().T
    assert torch.equal(layer(x[::2]), expected)


def test_a_dtype_that_packed_weights_do_not_have() -> None:
    layer = packed(96, 64)
    with pytest.raises(TypeError, match="float64"):
        layer.double()
    assert layer.weight_values.dtype is torch.bfloat16
    assert layer.float()(inputs(FEW, torch.float32)).dtype is torch.float32


def test_a_state_whose_mask_is_of_another_pattern_is_refused() -> None:
    layer = packed(96, 64)
    state = layer.state_dict()
    with pytest.raises(RuntimeError, match="does not keep 2 of every 4"):
        packed(96, 64).load_state_dict(state | {"weight_mask": torch.zeros_like(layer.weight_mask)})
    with torch.device("meta"):
        packed_on_meta = PackedLinear(64, 96, TWO_OF_FOUR, bias=True, dtype=torch.bfloat16)
    packed_on_meta.load_state_dict(state, assign=True)
    x = inputs(FEW, torch.bfloat16)
    assert torch.equal(packed_on_meta(x), layer(x))
