"""Packed checkpoints on disk, a shard at a time: made from a pruned one, and brought back to a dense one."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.construction import build, read_config
from eggs_core.errors import BrokenCheckpoint, BrokenPack
from eggs_core.layers import PrunableLayer
from eggs_core.model_folder import CONFIG, ModelFolder
from eggs_core.packed_model import check_tensors, put_packed_layers
from eggs_core.packing import pack, unpack
from eggs_core.packing_config import MASK, METHOD, VALUES, WEIGHT, Kind, PackingConfig
from eggs_core.pattern import NMPattern
from eggs_core.skeleton import Skeleton


def packing_of(skeleton: Skeleton, layers: Sequence[PrunableLayer], pattern: NMPattern) -> PackingConfig:
    """Which of the pruned `layers` are packed: those that a checkpoint stores one by one, under their own names.

    Experts that are fused into one parameter stay as they are.
    """
    prefix = f"{skeleton.model.base_model_prefix}."
    kinds: dict[str, Kind] = {}
    for layer in layers:
        stored = skeleton.stored_name(layer.full_parameter_name) if layer.expert is None else None
        if stored is not None and layer.full_parameter_name.removeprefix(prefix) == stored.removeprefix(prefix):
            kinds[stored.removesuffix(WEIGHT)] = "conv1d" if layer.transposed else "linear"
    return PackingConfig(pattern=pattern, layers=kinds)


def pack_checkpoint(source: Checkpoint, out: Path, packing: PackingConfig) -> Checkpoint:
    """Writes the pruned checkpoint `source` into the new folder `out`, with the layers of `packing` packed.

    One shard is in memory at a time. Raises `BrokenPack`, naming the layer, where one does not keep the pattern.
    """

    def packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            layer = name.removesuffix(WEIGHT)
            kind = packing.layers.get(layer) if name.endswith(WEIGHT) else None
            if kind is None:
                result[name] = tensor
                continue
            try:
                values, mask = pack(_turned(tensor, kind), packing.pattern)
            except BrokenPack as error:
                raise BrokenPack(f"{layer} cannot be packed. {error}") from error
            result |= {layer + VALUES: values, layer + MASK: mask}
        return result

    config = _config(source.folder) | {"quantization_config": packing.written()}
    return _rewritten(source, out, config, packed)


def unpack_checkpoint(source: Path, out: Path) -> Checkpoint:
    """Writes the packed checkpoint in `source` into the new folder `out` as the dense one that it was packed from.

    One shard is in memory at a time. Raises `BrokenPack` or `BrokenCheckpoint` where `source` holds none, or one
    that is damaged, and then leaves no folder `out`.
    """
    settings = _config(source)
    entries = settings.pop("quantization_config", None)
    if not isinstance(entries, dict) or entries.get("quant_method") != METHOD:
        raise BrokenPack("config.json does not say that this checkpoint was packed by eggs.")
    packing = PackingConfig.read(entries)
    checkpoint = Checkpoint(source)
    sizes = checkpoint.elements_by_dtype()
    elements = sum(sizes.values()) * packing.pattern.m // packing.pattern.n
    config = read_config(checkpoint.files)
    model = build(config, torch.float32, tensors=len(checkpoint.file_of), elements=elements)
    put_packed_layers(model, packing)
    check_tensors(model, checkpoint, packing)

    def dense(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            layer = name.removesuffix(VALUES).removesuffix(MASK)
            kind = packing.layers.get(layer)
            if kind is None or layer == name:
                result[name] = tensor
            elif name == layer + VALUES:
                mask = checkpoint.read([layer + MASK])[layer + MASK]  # which may lie in another shard
                try:
                    W = unpack(tensor, mask, packing.pattern)
                except BrokenPack as error:
                    raise BrokenPack(f"{layer} cannot be unpacked. {error}") from error
                result[layer + WEIGHT] = _turned(W, kind)
        return result

    return _rewritten(checkpoint, out, settings, dense)


Change = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]
"""From the tensors of a shard to those that take their place."""


def _rewritten(source: Checkpoint, out: Path, config: dict[str, Any], change: Change) -> Checkpoint:
    """A checkpoint in the new folder `out`, which appears once it is whole, with the shards of `source`, each
    changed."""
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir(parents=True)
    try:
        files = sorted(set(source.file_of.values()))
        writer = CheckpointWriter(partial, len(files))
        for number, file in enumerate(files):
            names = [name for name, home in source.file_of.items() if home == file]
            writer.write(number, change(source.read(names)))
        writer.finish()
        source.files.copy_companions(partial)
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial)
        raise
    return Checkpoint(out)


def _turned(W: Tensor, kind: Kind) -> Tensor:
    """The matrix as it is packed from how the layer stores it, or the other way round."""
    return W.T.contiguous() if kind == "conv1d" else W


def _config(folder: Path) -> dict[str, Any]:
    file = ModelFolder(folder).file(CONFIG)
    if file is None:
        raise BrokenCheckpoint(f"There is no {CONFIG} beside the weights.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"There is no readable {CONFIG} beside the weights.") from error
    if not isinstance(config, dict):
        raise BrokenCheckpoint(f"{CONFIG} holds no settings.")
    return config
