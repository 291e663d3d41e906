"""Products of 16-bit tensors, of a few tokens by the kernels and else in float32, as on a processor that has no
instructions for them."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from eggs_core import products

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_products_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "native", lambda dtype: dtype is torch.float32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [3, 30])
def test_a_product_is_rounded_once(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bias: bool, tokens: int
) -> None:
    monkeypatch.setattr(products, "_TILE_WEIGHTS", 100)  # 13 rows and a part of as many
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, tokens, 7, generator=generator).to(dtype)
    W = torch.randn(31, 7, generator=generator).to(dtype)
    b = torch.randn(31, generator=generator).to(dtype) if bias else None

    y = products.linear(x, W, b)

    exact = x.double() @ W.double().T + (0 if b is None else b.double())
    assert y.dtype is dtype
    torch.testing.assert_close(y.double(), exact, rtol=0.5 * torch.finfo(dtype).eps, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), Conv1D(4, 6)])
def test_layers_of_a_model_multiply_in_float32(layer: nn.Module) -> None:
    layer = layer.bfloat16()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).bfloat16()

    with torch.no_grad(), products.fast_products(CPU):
        y = layer(x)

    exact = layer.double()(x.double())
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.double(), exact.detach(), rtol=0.5 * torch.finfo(torch.bfloat16).eps, atol=1e-5)


def test_products_of_attention_and_experts_are_taken_in_float32() -> None:
    a, b = (torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(2))

    with products.fast_products(CPU):
        of_all = [
            a @ b,
            torch.matmul(a, b),
            torch.bmm(a, b),
            torch.stack([torch.mm(p, q) for p, q in zip(a, b, strict=True)]),
        ]

    exact = (a.float() @ b.float()).bfloat16()
    assert all(torch.equal(y, exact) for y in of_all)


def test_gradients_pass_through() -> None:
    layer = nn.Linear(6, 4).bfloat16()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).bfloat16()

    with products.fast_products(CPU):
        y = layer(x)
    y.float().square().sum().backward()

    expected = 2 * y.detach().float().T @ x.float()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype is torch.bfloat16
    torch.testing.assert_close(layer.weight.grad.float(), expected, rtol=1e-2, atol=1e-2)


def test_what_the_processor_has_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "native", lambda dtype: True)
    x, W = torch.ones(1, 4).bfloat16(), torch.ones(2, 4).bfloat16()

    with products.fast_products(CPU) as mode:
        assert mode is None
        assert torch.equal(products.linear(x, W), nn.functional.linear(x, W))


@pytest.mark.parametrize("shape", [(0, 4), (4,), (1, 2, 4)])
def test_a_few_tokens_keep_their_shape(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(products, "native", lambda dtype: True)
    x, W = torch.ones(shape).bfloat16(), torch.ones(3, 4).bfloat16()
    assert torch.equal(products.linear(x, W), nn.functional.linear(x, W))


@pytest.mark.parametrize(
    ("W", "bias"), [((3, 5), None), ((3, 4), (2,)), ((3, 4), (5,))], ids=["columns", "short bias", "long bias"]
)
def test_what_does_not_fit_is_refused_by_torch(
    monkeypatch: pytest.MonkeyPatch, W: tuple[int, int], bias: tuple[int] | None
) -> None:
    monkeypatch.setattr(products, "native", lambda dtype: True)
    b = None if bias is None else torch.ones(bias).bfloat16()
    with pytest.raises(RuntimeError, match=r"shape|size"):
        products.linear(torch.ones(2, 4).bfloat16(), torch.ones(W).bfloat16(), b)
