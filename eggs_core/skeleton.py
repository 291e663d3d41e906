"""A model without its weights, into which parts are loaded as they are needed.

The module tree is built by transformers from the config with parameters on the meta device. `eggs_core.loading`
brings checkpoint tensors into it, and transformers' inverse of that brings them back to the checkpoint's names.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from eggs_core import memory
from eggs_core.checkpoint import Checkpoint
from eggs_core.construction import build, read_config
from eggs_core.errors import UnsupportedModel
from eggs_core.loading import load_tensors, names_in, refuse_missing

_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class Skeleton:
    """The modules of a checkpoint's model; `blocks` are its decoder blocks, `block_names` their module names.

    Raises `UnsupportedModel` where transformers has no such causal language model, where its decoder blocks
    cannot be told, or where it is quantised already; `BrokenCheckpoint` where a block's weights are missing.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        memory.map_large_tensors()
        self.checkpoint = checkpoint
        self.device = device
        self.config = read_config(checkpoint.files)
        if getattr(self.config, "quantization_config", None) is not None:
            raise UnsupportedModel("This checkpoint is quantised already. Prune the original weights instead.")
        sizes = checkpoint.elements_by_dtype()
        self.dtype = _float_dtype(sizes)
        model = build(self.config, self.dtype, tensors=len(checkpoint.file_of), elements=sum(sizes.values()))
        self.model = model.eval().requires_grad_(False)
        # The other implementations hide the products with single experts from view.
        self.config._experts_implementation = "eager"
        self.model.config._experts_implementation = "eager"
        self.blocks, list_name = _decoder_blocks(self.model)
        self.block_names = [f"{list_name}.{i}" for i in range(len(self.blocks))]
        self._transforms: list[Any] = get_model_conversion_mapping(self.model)
        self._target_of, self._converted = names_in(self.model, checkpoint.file_of, self._transforms)
        self._names_in_block = self._assign_to_blocks()

    def _assign_to_blocks(self) -> list[list[str]]:
        pattern = re.compile(re.escape(self.block_names[0]).removesuffix("0") + r"(\d+)\.")
        names: list[list[str]] = [[] for _ in self.blocks]
        self.names_outside: list[str] = []
        self.uncounted_blocks: set[int] = set()
        for name, target in self._target_of.items():
            match = pattern.match(target)
            if match is None:
                self.names_outside.append(name)
            elif int(match[1]) < len(names):
                names[int(match[1])].append(name)
            else:  # a block that the config does not count, such as a multi-token prediction head
                self.names_outside.append(name)
                self.uncounted_blocks.add(int(match[1]))
        return names

    def load_outside(self) -> None:
        """Loads what lies outside the blocks: embeddings, final norm, output head."""
        missing = self._load(self.checkpoint.read(self.names_outside))
        # To whichever of the tied is there; and where both are, and differ, not at all.
        self.model.tie_weights(missing_keys=missing, recompute_mapping=False)
        block_modules = {module for block in self.blocks for module in block.modules()}
        for module in self.model.modules():
            if module not in block_modules:
                _move_own_tensors(module, self.device)
        refuse_missing(
            [
                name
                for name, p in self.model.named_parameters()
                if p.is_meta and not name.startswith(self.block_names[0].removesuffix("0"))
            ]
        )

    @contextmanager
    def loaded(self, index: int) -> Iterator[nn.Module]:
        """Decoder block `index` with its weights on the device; they are dropped at the end."""
        block = self.blocks[index]
        self.replace(index, self.checkpoint.read(self._names_in_block[index]))
        try:
            yield block
        finally:
            for module in block.modules():
                for name, parameter in module._parameters.items():
                    if parameter is not None:
                        empty = torch.empty_like(parameter, device="meta")
                        module._parameters[name] = nn.Parameter(empty, requires_grad=False)
            memory.give_back()

    def replace(self, index: int, tensors: dict[str, Tensor]) -> None:
        """Gives block `index` these weights, under their names in the checkpoint."""
        self._load(tensors)
        block = self.blocks[index]
        refuse_missing([f"{self.block_names[index]}.{name}" for name, p in block.named_parameters() if p.is_meta])
        block.to(self.device)

    def _load(self, tensors: dict[str, Tensor]) -> set[str]:
        return load_tensors(self.model, tensors, self._transforms, self.dtype)

    def checkpoint_tensors(self, index: int, changed: dict[str, Tensor]) -> dict[str, Tensor]:
        """Block `index` under its checkpoint names, with the module parameters in `changed` (by full module name).

        What did not change is read again, bit for bit; what did is brought back to the stored layout and dtype.
        """
        names = self._names_in_block[index]
        tensors = self.checkpoint.read(names)
        source_of = {self._target_of[name]: name for name in names if name not in self._converted}
        converted = {target: tensor for target, tensor in changed.items() if target not in source_of}
        updates = {source_of[target]: changed[target] for target in changed if target in source_of}
        if converted:
            # The parameters that share a conversion with a changed one go back together with it.
            self.model._weight_conversions = self._transforms
            updates |= revert_weight_conversion(self.model, converted)
        for own_name, tensor in updates.items():
            name = own_name if own_name in tensors else self._prefix_changed(own_name)
            stored = tensors[name]
            if stored.shape != tensor.shape:
                raise AssertionError(f"{name}: {tuple(tensor.shape)} written for {tuple(stored.shape)}")
            tensors[name] = tensor.to("cpu", stored.dtype)
        return tensors

    def stored_name(self, parameter: str) -> str | None:
        """The checkpoint's name of a module parameter, None where it is stored in another layout."""
        names = (name for name, target in self._target_of.items() if target == parameter)
        return next((name for name in names if name not in self._converted), None)

    def _prefix_changed(self, name: str) -> str:
        """`name` without the base model's prefix, or with it: checkpoints of a bare base model lack it."""
        prefix = f"{self.model.base_model_prefix}."
        return name.removeprefix(prefix) if name.startswith(prefix) else prefix + name


def _float_dtype(sizes: dict[str, int]) -> torch.dtype:
    """The dtype that most weights are stored in. Raises `UnsupportedModel` for one that is no plain float."""
    name = max(sizes, key=lambda dtype: sizes[dtype])
    if name not in _DTYPES:
        raise UnsupportedModel(f"The weights are stored as {name}. Prune BF16, F16 or F32 weights instead.")
    return _DTYPES[name]


def _decoder_blocks(model: PreTrainedModel) -> tuple[nn.ModuleList, str]:
    """The list of decoder blocks: as long as the config counts layers, and of all such lists the largest."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)  # BLT counts those of its parts
    lists = [
        (sum(p.numel() for p in module.parameters()), name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists or not count:
        many = "list of" if count is None else f"list of {count}"
        raise UnsupportedModel(f"No {many} decoder blocks was found in {type(model).__name__}.")
    _, name, blocks = max(lists, key=lambda entry: entry[0])
    return blocks, name


def _move_own_tensors(module: nn.Module, device: torch.device) -> None:
    for name, parameter in module._parameters.items():
        if parameter is not None and not parameter.is_meta:
            parameter.data = parameter.data.to(device)
            module._parameters[name] = parameter
    for name, buffer in module._buffers.items():
        if buffer is not None and not buffer.is_meta:
            module._buffers[name] = buffer.to(device)
