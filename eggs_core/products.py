"""Products of 16-bit tensors where torch's own are slow on a CPU.

With a few tokens a product is bound by reading the weights, which torch does at two thirds of the speed of memory:
the compiled kernels take those. A processor without instructions for such tensors multiplies them element by
element in torch: with AVX2 alone a layer takes six times as long in bfloat16 as in float32. There any product is
taken in float32 and rounded once, which is also what processors with such instructions give.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from eggs_core import kernels

# Tokens up to which the kernels are faster: than torch's instructions for such tensors, and than float32.
_FEW_TOKENS, _FEW_TOKENS_IN_FLOAT32 = 4, 16
_SIXTEEN_BITS = torch.bfloat16, torch.float16
# Weights that are in memory in float32 at once, in memory that is kept from tile to tile: fresh memory costs more.
_TILE_WEIGHTS = 1 << 19


@cache
def native(dtype: torch.dtype) -> bool:
    """Whether torch has fast products of this dtype on this machine's processor."""
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if dtype is torch.float16:
        return bool(torch.ops.mkldnn._is_mkldnn_fp16_supported())
    return True


def dtype_of_products(W: Tensor) -> torch.dtype:
    """In which to multiply what may be rounded as coarsely as weights W, but may be far larger: bfloat16 for
    those of 16 bits, as float16 could overflow, or float32 where that is faster."""
    dtype = torch.bfloat16 if W.dtype in _SIXTEEN_BITS else W.dtype
    return torch.float32 if W.device.type == "cpu" and not native(dtype) else dtype


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x Wᵀ + bias, as `torch.nn.functional.linear`: x (..., C_in), weight (C_out, C_in), y (..., C_out)."""
    if _few(x, weight, bias):
        y = kernels.dense_linear(x.reshape(-1, x.shape[-1]).contiguous(), weight, bias)
        return y.view(*x.shape[:-1], len(weight))
    if not _slow(x):
        return nn.functional.linear(x, weight, bias)
    rows = max(1, _TILE_WEIGHTS // weight.shape[1])
    y = x.new_empty(*x.shape[:-1], len(weight))
    exact = x.float()
    held = torch.empty(min(rows, len(weight)), weight.shape[1])
    for first in range(0, len(weight), rows):
        part = slice(first, first + rows)
        tile = held[: len(weight) - first].copy_(weight[part])
        y[..., part] = nn.functional.linear(exact, tile, None if bias is None else bias[part].float())
    return y


_open = ContextVar("_open", default=False)


def fast_products(device: torch.device) -> AbstractContextManager[object]:
    """While open, a model's own code multiplies as fast as the processor can, whatever its dtype.

    One that is opened within another changes nothing. So whoever is to see the model's products before they become
    others is opened within one.
    """
    if device.type == "cpu" and not _open.get() and not (native(torch.bfloat16) and native(torch.float16)):
        return _float32_products()
    return nullcontext()


@contextmanager
def _float32_products() -> Iterator[None]:
    token = _open.set(True)
    try:
        with _Float32Products():
            yield
    finally:
        _open.reset(token)


class _Float32Products(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS or not _slow(args[0]):
            return func(*args, **kwargs)
        if func is nn.functional.linear and not torch.is_grad_enabled():
            return linear(*args, **kwargs)
        dtype = args[0].dtype
        args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return func(*args, **kwargs).to(dtype)


_PRODUCTS = {
    nn.functional.linear,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    Tensor.matmul,
    Tensor.__matmul__,
    Tensor.mm,
    Tensor.bmm,
    Tensor.baddbmm,
}


def _few(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a product is one that the kernels have, and are faster at. Others may be none: torch will tell."""
    of_kernels = x.device.type == "cpu" and x.dtype in _SIXTEEN_BITS and kernels.vectorised()
    if not of_kernels or weight.dim() != 2 or x.shape[-1] != weight.shape[1]:
        return False
    alike = all(other.dtype is x.dtype and other.is_contiguous() for other in (weight, bias) if other is not None)
    fits = bias is None or bias.shape == weight.shape[:1]
    tokens = x.numel() // max(1, x.shape[-1])
    return alike and fits and tokens <= (_FEW_TOKENS if native(x.dtype) else _FEW_TOKENS_IN_FLOAT32)


def _slow(x: Tensor) -> bool:
    return x.device.type == "cpu" and not native(x.dtype)
