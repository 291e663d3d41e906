"""The weight matrices of a decoder block that can be pruned, whatever kind of module holds them."""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from eggs_core.errors import UnsupportedModel


@dataclass(frozen=True, slots=True)
class PrunableLayer:
    """One weight matrix: an `nn.Linear`, a GPT-2 `Conv1D`, or one expert of a fused three-dimensional parameter.

    `name` is the layer's full name, `owner` the module that holds its parameter, `parameter_name` the
    parameter's name in that module, `expert` the expert's number in a fused parameter.
    """

    name: str
    module_name: str
    owner: nn.Module
    parameter_name: str
    expert: int | None
    transposed: bool

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as it is now; the streaming replaces it when a block is loaded."""
        return self.owner.get_parameter(self.parameter_name)

    @property
    def full_parameter_name(self) -> str:
        return f"{self.module_name}.{self.parameter_name}"

    @property
    def weight(self) -> Tensor:
        """A view of shape (C_out, C_in); writing to it writes to the parameter."""
        return self.view(self.parameter)

    def view(self, tensor: Tensor) -> Tensor:
        """The part of `tensor`, which is shaped as the parameter, that is this layer's: (C_out, C_in)."""
        matrix = tensor if self.expert is None else tensor[self.expert]
        return matrix.T if self.transposed else matrix

    @property
    def shape(self) -> tuple[int, int]:
        """(C_out, C_in)"""
        rows, columns = self.parameter.shape[-2:]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def type(self) -> str:
        """Last part of the name that is no number, such as q_proj."""
        return next(part for part in reversed(self.name.split(".")) if not part.isdigit())


def prunable_layers(block: nn.Module, block_name: str, ignore: Sequence[str]) -> list[PrunableLayer]:
    """The layers of `block` that no shell pattern of `ignore` matches, in module order.

    Raises `UnsupportedModel`, naming the module, for fused experts whose orientation cannot be told.
    """

    def ignored(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in ignore)

    for name in _unknown_experts(block, block_name):
        if not ignored(name):
            raise UnsupportedModel(
                f"{name} holds its experts in a form that cannot be pruned here. Leave them dense by adding "
                f'"{name}" to ignore.'
            )
    return [layer for layer in _matrices(block, block_name) if not ignored(layer.name)]


def layer_names(block: nn.Module, block_name: str) -> Iterator[str]:
    """The names of all that could be pruned or left dense in `block`."""
    yield from _unknown_experts(block, block_name)
    yield from (layer.name for layer in _matrices(block, block_name))


def _matrices(block: nn.Module, block_name: str) -> Iterator[PrunableLayer]:
    for relative_name, module in block.named_modules():
        name = f"{block_name}.{relative_name}" if relative_name else block_name
        if isinstance(module, (nn.Linear, Conv1D)):
            yield PrunableLayer(name, name, module, "weight", None, isinstance(module, Conv1D))
            continue
        if not _says_its_orientation(module):
            continue
        for parameter_name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3:  # (experts, C_out, C_in), or the last two the other way round
                transposed = bool(module.is_transposed)
                for expert in range(parameter.shape[0]):
                    layer_name = f"{name}.{parameter_name}.{expert}"
                    yield PrunableLayer(layer_name, name, module, parameter_name, expert, transposed)


def _says_its_orientation(module: nn.Module) -> bool:
    # transformers gives this to every experts module that shares its interface. Other parameters of three
    # dimensions are convolution kernels and the like, which are no matrices.
    return hasattr(module, "is_transposed")


def _unknown_experts(block: nn.Module, block_name: str) -> Iterator[str]:
    for relative_name, module in block.named_modules():
        known = isinstance(module, (nn.Linear, Conv1D)) or _says_its_orientation(module)
        if "Expert" in type(module).__name__ and not known:
            for parameter_name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim >= 2:  # of two dimensions where experts lie one below the other
                    yield f"{block_name}.{relative_name}.{parameter_name}"
