"""Brings to a GPU what the host knows, without waiting, as a plain copy does, for all that is still to be done."""

import torch
from torch import Tensor


def brought(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()  # or what is large would be copied in step with the device
    return tensor.to(device, non_blocking=True)


def number(value: float | Tensor, device: torch.device) -> Tensor:
    """A number as a tensor, (), float64, on `device`, unless it is one there already."""
    return value if isinstance(value, Tensor) else torch.full((), value, dtype=torch.float64, device=device)
