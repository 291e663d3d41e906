"""A model of transformers with packed layers, and whether a checkpoint has the tensors that it asks for."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from types import UnionType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.pytorch_utils import Conv1D

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint, BrokenPack, EggsError
from eggs_core.large_batches import backends, bytes_besides
from eggs_core.loading import load_tensors, names_in, refuse_missing
from eggs_core.packed_linear import PackedLinear
from eggs_core.packing import check_form
from eggs_core.packing_config import MASK, VALUES, Kind, PackingConfig


def put_packed_layers(model: PreTrainedModel, packing: PackingConfig) -> None:
    """Puts a `PackedLinear` without content into `model` for every layer that is packed.

    Raises as `packed_layers` does.
    """
    for path, _, packed in packed_layers(model, packing):
        model.set_submodule(path, packed)


def put_unpacked_layers(model: PreTrainedModel, packing: PackingConfig) -> None:
    """Puts a plain layer with the same weights, which learn, into `model` for every `PackedLinear` in it.

    Raises `BrokenPack` where `eggs_core.packing.check` does.
    """
    for name, kind in packing.layers.items():
        layer = _find(model, name, PackedLinear)
        if layer is None:
            continue
        path, packed = layer
        with torch.device("meta"):  # weights are put in
            size = packed.in_features, packed.out_features
            plain = Conv1D(*reversed(size)) if kind == "conv1d" else nn.Linear(*size, bias=packed.bias is not None)
        W = packed.weight
        plain.weight = nn.Parameter(W.T.contiguous() if kind == "conv1d" else W)
        if packed.bias is not None:
            plain.bias = nn.Parameter(packed.bias.data)
        model.set_submodule(path, plain)


def bytes_in_memory(model: PreTrainedModel, packing: PackingConfig, device: torch.device) -> int:
    """Of all tensors of `model` once its layers are packed and it is loaded onto `device`, in its present dtypes.

    On a GPU products are measured, as loading does, to tell what layers are to hold besides.
    """
    layers = list(packed_layers(model, packing))
    chosen = backends([packed for _, _, packed in layers], device)
    return bytes_held(model) + sum(
        bytes_held(packed) - bytes_held(dense) + bytes_besides(packed, backend)
        for (_, dense, packed), backend in zip(layers, chosen, strict=True)
    )


def bytes_held(model: nn.Module) -> int:
    """Of all tensors of a model, tied ones counted once; of one without its weights, what it takes with them."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


def packed_layers(model: PreTrainedModel, packing: PackingConfig) -> Iterator[tuple[str, nn.Module, PackedLinear]]:
    """Every layer that is packed: its path, the module that `model` has there, and a `PackedLinear` without
    content for its place.

    Raises `BrokenPack`, naming the layer, where the model has no such layer, or the pattern does not fit it.
    """
    for name, kind in packing.layers.items():
        layer, shown = _find(model, name, nn.Linear | Conv1D), repr(name[:128])
        if layer is None:
            raise BrokenPack(f"config.json says that {shown} is packed, and this model has no such layer.")
        path, module = layer
        own: Kind = "conv1d" if isinstance(module, Conv1D) else "linear"
        if kind != own:
            raise BrokenPack(f"config.json says that {shown} is a {kind}, and in this model it is a {own}.")
        rows, columns = module.weight.shape if own == "linear" else module.weight.shape[::-1]
        if columns % packing.pattern.m:
            raise BrokenPack(f"{shown} has {columns} input channels, which {packing.pattern} does not fit.")
        with torch.device("meta"):
            packed = PackedLinear(
                columns, rows, packing.pattern, bias=module.bias is not None, dtype=module.weight.dtype
            )
        yield path, module, packed


def check_tensors(model: PreTrainedModel, checkpoint: Checkpoint, packing: PackingConfig) -> None:
    """Tells by names, dtypes and shapes whether `model`, with its packed layers put in, can be loaded from
    `checkpoint`. No weight is read, and the model is left as it is.

    Raises `BrokenPack` or `BrokenCheckpoint`, naming a tensor, where transformers would fail, or would make up
    a weight that the checkpoint lacks. Of a model of another class than the one that was packed, such as one with
    another head, it may make up what is not packed.
    """
    stored = checkpoint.read(checkpoint.file_of)  # mapped: the files are read where their content is used
    for layer in packing.layers:
        refuse_missing([name for name in (layer + VALUES, layer + MASK) if name not in stored])
        try:
            check_form(stored[layer + VALUES], stored[layer + MASK], packing.pattern)
        except BrokenPack as error:
            raise BrokenPack(f"{layer} cannot be loaded. {error}") from error
    for name in stored:
        layer = name.removesuffix(VALUES).removesuffix(MASK)
        if layer != name and layer not in packing.layers:
            raise BrokenPack(f"{name[:128]!r} is of a packed layer, which config.json does not name.")
    try:
        transforms = get_model_conversion_mapping(model)
        own = model.state_dict()
        for name, target in names_in(model, stored, transforms).target_of.items():
            if target in own and own[target].is_floating_point() and not stored[name].is_floating_point():
                raise BrokenCheckpoint(
                    f"{name[:128]!r} is stored as {stored[name].dtype}, and is no such numbers."
                )
        tried = copy.deepcopy(model)
        missing = load_tensors(tried, stored, transforms, torch.float32, "meta")
        for tied in tried.all_tied_weights_keys.items():
            if not missing.issuperset(tied):  # one of both is stored
                missing.difference_update(tied)
    except EggsError:
        raise
    except Exception as error:  # names that no model has make transformers fail in any way
        raise BrokenCheckpoint("The names of the checkpoint's tensors cannot be read. Save it again.") from error
    if type(model).__name__ in (model.config.architectures or ()):
        refuse_missing(sorted(missing & dict(tried.named_parameters()).keys()))


def _find(model: PreTrainedModel, name: str, kinds: type | UnionType) -> tuple[str, Any] | None:
    """The path and the module of what a checkpoint calls `name`, where it is of these kinds. Checkpoints of a base
    model alone leave out its name, as transformers allows."""
    prefix = f"{model.base_model_prefix}."
    for path in (name, prefix + name, name.removeprefix(prefix)):
        with suppress(AttributeError):
            module = model.get_submodule(path)
            if isinstance(module, kinds):
                return path, module
    return None
