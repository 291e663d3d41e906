"""Layers in packed form, as a checkpoint would fill them."""

import torch

from eggs_core.masks import top_n_mask
from eggs_core.packed_linear import PackedLinear
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern

TWO_OF_FOUR = NMPattern(2, 4)


def packed(rows: int, columns: int, dtype: torch.dtype = torch.bfloat16) -> PackedLinear:
    """At 2:4, with random weights and a bias of ones."""
    W = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))
    W = torch.where(top_n_mask(W.abs(), TWO_OF_FOUR), W, 0).to(dtype)
    layer = PackedLinear(columns, rows, TWO_OF_FOUR, bias=True, dtype=dtype)
    values, mask = pack(W, TWO_OF_FOUR)
    layer.load_state_dict({"weight_values": values, "weight_mask": mask, "bias": torch.ones(rows, dtype=dtype)})
    return layer
