"""Linear layers that a packed model keeps dense, such as its output head, as fast on a CPU as memory is.

In a small model the head is a third of the bytes that are read for a token once the other layers are packed.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eggs_core import products


class DenseLinear(nn.Linear):
    """`nn.Linear`, with products from `eggs::linear` where nothing asks for a gradient, and the weights are plain
    ones: others may have quantized them since, or spread them over machines."""

    def forward(self, x: Tensor) -> Tensor:
        learning = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        plain = x.device.type == "cpu" and type(self.weight) is nn.Parameter
        if learning or not plain or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        y: Tensor = torch.ops.eggs.linear(x, self.weight, self.bias)
        return y


def put_dense_layers(model: nn.Module) -> None:
    """Makes a `DenseLinear` of every plain `nn.Linear` in `model`, with the parameters that it has."""
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = DenseLinear


_library = torch.library.Library("eggs", "FRAGMENT")
_library.define("linear(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor")


@torch.library.impl(_library, "linear", "CPU")
def _on_cpu(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return products.linear(x, weight, bias)


@torch.library.register_fake("eggs::linear", lib=_library)  # type: ignore[untyped-decorator]
def _shape_of(x: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])
