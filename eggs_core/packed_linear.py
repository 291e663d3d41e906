"""A linear layer that computes from the packed form, through the registered operator `eggs::nm_linear`.

Shapes as in `eggs_core.packing`; x (..., C_in), y (..., C_out).
"""

import threading
import warnings
from collections.abc import Callable
from enum import Enum, auto
from functools import cache, partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from eggs_core import kernels, products
from eggs_core.errors import BrokenPack
from eggs_core.kernels import semi_structured
from eggs_core.kernels.semi_structured import Backend
from eggs_core.packing import DTYPES, check, packed_shapes, unpack
from eggs_core.pattern import NMPattern

SMALL_BATCH = 16
"""Tokens up to which a product is bound by reading the weights, and comes from the packed form directly."""
# Dense bytes unpacked at a time beyond that. Products of smaller tiles cost more than the caches save.
_TILE_BYTES = 32 << 20
_of_thread = threading.local()


class Product(Enum):
    """How a product with packed weights comes about."""

    PACKED = auto()
    """From the packed form, by the compiled kernels on a CPU, by Triton's on a GPU."""
    COMPRESSED = auto()
    """From what the layer holds besides: `eggs_core.kernels.semi_structured`."""
    UNPACKED = auto()
    """From the dense matrix, unpacked for the purpose."""


def product_of(tokens: int, values: Tensor, compressed: Tensor | None) -> Product:
    """Which one `tokens` tokens take, with weights of these packed values, by their dtype and device."""
    if values.device.type == "cuda":
        if tokens <= SMALL_BATCH:
            return Product.PACKED if kernels.by_triton(values) else Product.UNPACKED
        return Product.UNPACKED if compressed is None else Product.COMPRESSED
    fast = tokens <= SMALL_BATCH or kernels.any_batch(values.dtype)
    return Product.PACKED if kernels.available() and fast else Product.UNPACKED


_library = torch.library.Library("eggs", "DEF")
_library.define("nm_unpack(Tensor values, Tensor mask, int n, int m) -> Tensor")
_library.define(
    "nm_linear(Tensor x, Tensor values, Tensor mask, Tensor? bias, int n, int m, "
    "Tensor? compressed=None, Tensor? metadata=None) -> Tensor"
)


def check_dtype(dtype: torch.dtype) -> None:
    """Raises TypeError for one that packed weights do not have."""
    if dtype not in DTYPES:
        raise TypeError(f"Packed weights cannot be {dtype}. Unpack the model first, as eggs unpack does.")


class PackedLinear(nn.Module):
    """y = x Wᵀ + b for a W in packed form; made without content, which a checkpoint's is loaded into.

    On a GPU it may hold W for many tokens once more, compressed as `eggs_core.kernels.semi_structured` has it.
    """

    def __init__(
        self, in_features: int, out_features: int, pattern: NMPattern, *, bias: bool, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.pattern = in_features, out_features, pattern
        values, mask = packed_shapes((out_features, in_features), pattern)
        self.weight_values = nn.Parameter(torch.empty(values, dtype=dtype), requires_grad=False)
        self.register_buffer("weight_mask", torch.empty(mask, dtype=torch.uint8))
        self.weight_mask: Tensor
        # Of this machine alone, and so no part of a checkpoint.
        self.register_buffer("compressed", None, persistent=False)
        self.register_buffer("metadata", None, persistent=False)
        self.compressed: Tensor | None
        self.metadata: Tensor | None
        self.bias = nn.Parameter(torch.empty(out_features, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        pattern = self.pattern
        packed = (
            self.weight_values,
            self.weight_mask,
            self.bias,
            pattern.n,
            pattern.m,
            self.compressed,
            self.metadata,
        )
        # Gradients registered with the operator would take longer, in every call, than a small product.
        if x.requires_grad and torch.is_grad_enabled():
            y: Tensor = _Differentiable.apply(x, *packed)  # type: ignore[no-untyped-call]
        else:
            y = torch.ops.eggs.nm_linear(x, *packed)
        return y

    def compress(self, backend: Backend | None) -> None:
        """Holds W compressed for products of more than `SMALL_BATCH` tokens; no longer where `backend` is None.

        W is one that `semi_structured.eligible` tells. Raises `RuntimeError` as `semi_structured.compress` does.
        """
        self.compressed, self.metadata = None, None
        if backend is not None:
            self.compressed, self.metadata = semi_structured.compress(self.weight, backend)

    def product(self, tokens: int) -> str:
        """In words, how it multiplies so many tokens here, such as "packed, AVX512_BF16"."""
        values = self.weight_values
        match product_of(tokens, values, self.compressed):
            case Product.COMPRESSED:
                return f"semi-structured, {semi_structured.backend_of(self.metadata)}"
            case Product.PACKED if values.device.type == "cuda":
                return "packed, Triton"
            case Product.PACKED:
                return f"packed, {kernels.level_for(values.dtype).name}"
        return "unpacked"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moved or cast, it holds nothing compressed: that is of one device, and no plain numbers.

        Raises TypeError for a dtype that packed weights do not have.
        """
        check_dtype(fn(self.weight_values.data[:0]).dtype)
        held = self.compressed, self.metadata
        before = self.weight_values.device, self.weight_values.dtype  # torch changes a parameter in place
        self.compressed, self.metadata = None, None
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if (self.weight_values.device, self.weight_values.dtype) == before:
            self.compressed, self.metadata = held
        return self

    @property
    def weight(self) -> Tensor:
        """W, (C_out, C_in), unpacked anew for whoever asks: a model's own code may, for its dtype or its values.

        Raises `BrokenPack` where `eggs_core.packing.check` does.
        """
        return unpack(self.weight_values.data, self.weight_mask, self.pattern)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        """Refuses what the kernels would read past the end of: a mask is not looked at in a product."""
        super()._load_from_state_dict(*arguments, **options)
        if not self.weight_mask.is_meta:
            try:
                check(self.weight_values.data, self.weight_mask, self.pattern)
            except BrokenPack as error:
                prefix, errors = arguments[1], arguments[6]
                errors.append(f"{prefix.removesuffix('.')} cannot be loaded. {error}")

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.pattern}, bias={self.bias is not None}"


@torch.library.register_fake("eggs::nm_linear", lib=_library)  # type: ignore[untyped-decorator]
def _shape_of(x: Tensor, values: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], values.shape[0])


@torch.library.impl(_library, "nm_unpack", "CompositeExplicitAutograd")
def _unpack(values: Tensor, mask: Tensor, n: int, m: int) -> Tensor:
    return unpack(values, mask, NMPattern(n, m))


@torch.library.register_fake("eggs::nm_unpack", lib=_library)  # type: ignore[untyped-decorator]
def _dense_shape_of(values: Tensor, mask: Tensor, n: int, m: int) -> Tensor:
    return values.new_empty(values.shape[0], values.shape[1] // n * m)


class _Differentiable(torch.autograd.Function):
    """`eggs::nm_linear` with a gradient of x alone: packed weights are for inference, and layers before them may
    still be trained."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, n: int, m: int, *besides: Any
    ) -> Tensor:
        ctx.save_for_backward(values, mask)
        ctx.n, ctx.m = n, m
        y: Tensor = torch.ops.eggs.nm_linear(x, values, mask, bias, n, m, *besides)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, mask = ctx.saved_tensors
        W = torch.ops.eggs.nm_unpack(values, mask, ctx.n, ctx.m)
        return gradient.to(W.dtype) @ W, *[None] * 7  # under autocast y has another dtype


_pattern = cache(NMPattern)


def _autocast(device: str, x: Tensor, values: Tensor, *rest: Any) -> Tensor:
    """The product is taken in the dtype of the packed values, which are not cast anew for every token, and only y
    is cast, as a dense layer's would be."""
    with torch.autocast(device, enabled=False):
        y: Tensor = torch.ops.eggs.nm_linear(x.to(values.dtype), values, *rest)
    return y.to(torch.get_autocast_dtype(device))


for _device in ("cpu", "cuda"):
    _library.impl("nm_linear", partial(_autocast, _device), f"Autocast{_device.upper()}")


def _check(x: Tensor, values: Tensor, bias: Tensor | None, n: int, m: int) -> None:
    """Raises `RuntimeError`, as a dense layer does, for what the kernels would read past the end of."""
    if x.dtype is not values.dtype or (bias is not None and bias.dtype is not values.dtype):
        raise RuntimeError(
            f"x is {x.dtype}, but the packed weights are {values.dtype}"
            + ("." if bias is None else f" and the bias is {bias.dtype}.")
        )
    if x.shape[-1] * n != values.shape[1] * m:
        raise RuntimeError(f"x has {x.shape[-1]} channels, but the packed weights {values.shape[1] // n * m}.")


@torch.library.impl(_library, "nm_linear", "CPU")
def _on_cpu(x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, n: int, m: int, *_: Any) -> Tensor:
    _check(x, values, bias, n, m)
    *outer, columns = x.shape
    tokens, pattern = x.reshape(-1, columns).contiguous(), _pattern(n, m)
    values, mask = values.contiguous(), mask.contiguous()
    if not kernels.available():
        _say_that_there_is_no_kernel()
        y = products.linear(tokens, unpack(values, mask, pattern), bias)
    elif product_of(tokens.shape[0], values, None) is Product.PACKED:  # len() of a tensor takes five times as long
        y = kernels.linear(tokens, values, mask, bias, pattern)
    else:
        y = _by_tiles(tokens, values, mask, bias, pattern)
    return y.view(*outer, values.shape[0])


@torch.library.impl(_library, "nm_linear", "CUDA")
def _on_gpu(
    x: Tensor,
    values: Tensor,
    mask: Tensor,
    bias: Tensor | None,
    n: int,
    m: int,
    compressed: Tensor | None = None,
    metadata: Tensor | None = None,
) -> Tensor:
    _check(x, values, bias, n, m)
    rows, pattern = values.shape[0], _pattern(n, m)
    tokens = x.reshape(-1, x.shape[-1]).contiguous()
    product = product_of(tokens.shape[0], values, compressed)
    if product is Product.PACKED:
        from eggs_core.kernels import triton_linear

        y = triton_linear.linear(tokens, values, mask, bias, pattern)
    elif product is Product.COMPRESSED:
        assert compressed is not None
        y = semi_structured.linear(tokens, compressed, metadata, bias, rows)
    else:
        y = nn.functional.linear(tokens, unpack(values, mask, pattern), bias)
    return y.view(*x.shape[:-1], rows)


def _by_tiles(x: Tensor, values: Tensor, mask: Tensor, bias: Tensor | None, pattern: NMPattern) -> Tensor:
    columns, total = x.shape[1], len(values)
    rows = max(1, min(total, _TILE_BYTES // (columns * values.element_size())))
    tile = _scratch(rows * columns * values.element_size()).view(values.dtype)
    if rows == total:
        return products.linear(x, kernels.unpack_rows(values, mask, pattern, 0, total, tile), bias)
    y = x.new_empty(len(x), total)
    for first in range(0, total, rows):
        last = min(first + rows, total)
        dense = kernels.unpack_rows(values, mask, pattern, first, last, tile)
        y[:, first:last] = products.linear(x, dense, None if bias is None else bias[first:last])
    return y


def _scratch(size: int) -> Tensor:
    """Memory that this thread's products unpack to: taking it anew for each would cost more than unpacking."""
    held: Tensor | None = getattr(_of_thread, "scratch", None)
    if held is None or len(held) < size:
        held = torch.empty(size, dtype=torch.uint8)
        _of_thread.scratch = held
    return held[:size]


def _say_that_there_is_no_kernel() -> None:
    warnings.warn(
        "eggs was installed without a C compiler, so packed weights are unpacked for every product, which is "
        "slower than a dense model. Install one (such as gcc) and then eggs again.",
        stacklevel=3,
    )
