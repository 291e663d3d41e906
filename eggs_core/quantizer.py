"""Lets transformers load packed checkpoints: `AutoModelForCausalLM.from_pretrained(folder)`.

Imported once `transformers.quantizers.auto` is, see `eggs_core/__init__.py`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from eggs_core import memory
from eggs_core.checkpoint import Checkpoint
from eggs_core.dense_linear import put_dense_layers
from eggs_core.errors import BrokenPack
from eggs_core.large_batches import choose_products
from eggs_core.packed_linear import PackedLinear, check_dtype
from eggs_core.packing import check
from eggs_core.packing_config import METHOD, PackingConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register_quantization_config(METHOD)
class EggsConfig(QuantizationConfigMixin):
    """`quantization_config` of config.json as transformers holds it. Raises `BrokenPack` for what is not one."""

    def __init__(self, /, **entries: Any) -> None:  # a stranger's entry may be called self
        self.quant_method = METHOD  # type: ignore[assignment]
        self.packing = PackingConfig.read(entries)

    def to_dict(self) -> dict[str, Any]:
        return self.packing.written()


@register_quantizer(METHOD)
class EggsQuantizer(HfQuantizer):
    """Puts a `PackedLinear` where a layer is packed, checks what was loaded into it, and has it be fast."""

    requires_calibration = True
    quantization_config: EggsConfig

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Refuses what a caller asks for that packed weights are never loaded as."""
        check_dtype(dtype)
        return dtype

    def _process_model_before_weight_loading(
        self, model: "PreTrainedModel", checkpoint_files: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        # Needs more of transformers than there is while it imports this.
        from eggs_core.packed_model import check_tensors, put_packed_layers

        packing = self.quantization_config.packing
        put_packed_layers(model, packing)
        put_dense_layers(model)
        if checkpoint_files:  # None where the caller gives the tensors
            files = [Path(file) for file in checkpoint_files]
            check_tensors(model, Checkpoint(files[0].parent, [file.name for file in files]), packing)

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        if any(parameter.is_meta for parameter in model.parameters()):  # there is no content to check
            return model
        for name, module in model.named_modules():
            if isinstance(module, PackedLinear):
                try:
                    check(module.weight_values.data, module.weight_mask, module.pattern)
                except BrokenPack as error:
                    raise BrokenPack(f"{name} cannot be loaded. {error}") from error
        choose_products(model)
        memory.give_back()  # what the checks took: the process lives on with no more than the model
        return model

    def _dequantize(self, model: Any, dtype: torch.dtype | None = None) -> Any:
        """The same model with plain layers, for training, or for a dtype that packed weights do not have."""
        from eggs_core.packed_model import put_unpacked_layers

        put_unpacked_layers(model, self.quantization_config.packing)
        return model.to(dtype)

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True
