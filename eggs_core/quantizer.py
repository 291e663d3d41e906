"""Lets transformers load packed checkpoints: `AutoModelForCausalLM.from_pretrained(folder)`.

Imported once `transformers.quantizers.auto` is, see `eggs_core/__init__.py`.
"""

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from eggs_core import memory
from eggs_core.errors import BrokenPack
from eggs_core.large_batches import choose_products
from eggs_core.packed_linear import PackedLinear
from eggs_core.packing import check
from eggs_core.packing_config import METHOD, PackingConfig


@register_quantization_config(METHOD)
class EggsConfig(QuantizationConfigMixin):
    """`quantization_config` of config.json as transformers holds it. Raises `BrokenPack` for what is not one."""

    def __init__(self, **entries: Any) -> None:
        self.quant_method = METHOD  # type: ignore[assignment]
        self.packing = PackingConfig.read(entries)

    def to_dict(self) -> dict[str, Any]:
        return self.packing.written()


@register_quantizer(METHOD)
class EggsQuantizer(HfQuantizer):
    """Puts a `PackedLinear` where a layer is packed, checks what was loaded into it, and has it be fast."""

    requires_calibration = True
    quantization_config: EggsConfig

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        packing = self.quantization_config.packing
        prefix = f"{model.base_model_prefix}."
        for name, kind in packing.layers.items():
            # Checkpoints of a base model alone leave out its name, as transformers allows.
            layer = _find(model, name) or _find(model, prefix + name) or _find(model, name.removeprefix(prefix))
            if layer is None:
                raise BrokenPack(f"config.json says that {name} is packed, and this model has no such layer.")
            path, module = layer
            if kind == "conv1d":
                columns, rows = module.weight.shape
            else:
                rows, columns = module.weight.shape
            if columns % packing.pattern.m:
                raise BrokenPack(f"{name} has {columns} input channels, which {packing.pattern} does not fit.")
            with torch.device("meta"):
                packed = PackedLinear(
                    columns, rows, packing.pattern, bias=module.bias is not None, dtype=module.weight.dtype
                )
            model.set_submodule(path, packed)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        for name, module in model.named_modules():
            if isinstance(module, PackedLinear):
                try:
                    check(module.weight_values.data, module.weight_mask, module.pattern)
                except BrokenPack as error:
                    raise BrokenPack(f"{name} cannot be loaded. {error}") from error
        choose_products(model)
        memory.give_back()  # what the checks took: the process lives on with no more than the model
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True


def _find(model: nn.Module, name: str) -> tuple[str, Any] | None:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return None
    return (name, module) if isinstance(getattr(module, "weight", None), nn.Parameter) else None
