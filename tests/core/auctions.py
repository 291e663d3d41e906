"""Auctions for tests, and how numpy holds them."""

import numpy
import torch
from torch import Tensor

from eggs_core import assignment


def problems(count: int, size: int, values: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Costs of so many values, many of them equal, prices to begin with, and steps."""
    generator = torch.Generator().manual_seed(seed)
    cost = torch.randint(0, values, (count, size, size), generator=generator).float()
    price = torch.rand(count, size, generator=generator, dtype=torch.float64) * values
    return cost, price, torch.full((count,), values / 100, dtype=torch.float64)


def by_numpy(cost: Tensor, price: Tensor, step: Tensor, bids: int) -> Tensor:
    owners = map(assignment.auction_by_numpy, cost.numpy(), price.numpy().copy(), step.numpy(), [bids] * len(cost))
    return torch.from_numpy(numpy.stack(list(owners)))
