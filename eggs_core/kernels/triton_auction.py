"""Assignments by auction on a GPU, a program each; see `eggs_core.assignment`.

With TRITON_INTERPRET=1 in the environment it runs on CPU tensors.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


# Its compiler takes no annotations but its own.
@triton.jit  # type: ignore[untyped-decorator]
def _kernel(  # type: ignore[no-untyped-def]
    cost_ptr, price_ptr, step_ptr, owner_ptr, size, bids_a_step, SIZE: tl.constexpr
) -> None:
    problem = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, SIZE)
    there = column < size
    price = tl.load(price_ptr + problem * size + column, mask=there, other=float("inf"))
    owner = tl.full((SIZE,), -1, dtype=tl.int32)
    step = tl.load(step_ptr + problem)
    bids = 0
    for first in range(0, size):
        row = first
        while row >= 0:
            costs = tl.load(cost_ptr + (problem * size + row) * size + column, mask=there, other=0.0)
            total = costs.to(tl.float64) + price
            lowest = tl.min(total, axis=0)
            cheapest = tl.min(tl.where(total == lowest, column, SIZE), axis=0)
            bought = column == cheapest
            following = tl.min(tl.where(bought, float("inf"), total), axis=0)
            price = tl.where(bought, price + (following - lowest + step), price)
            outbid = tl.sum(tl.where(bought, owner, 0), axis=0)
            owner = tl.where(bought, row, owner)
            row = outbid
            bids += 1
            step = tl.where(bids % bids_a_step == 0, step * 2, step)
    tl.store(owner_ptr + problem * size + column, owner.to(tl.int64), mask=there)


def auction(cost: Tensor, price: Tensor, step: Tensor, bids: int) -> Tensor:
    """The row that gets each column, (k, a) int64; `bids` a row until the step is doubled. See
    `eggs_core.assignment._auction`."""
    count, size, _ = cost.shape
    owner = cost.new_empty(count, size, dtype=torch.int64)
    _kernel[(count,)](
        cost.contiguous(),
        price.contiguous(),
        step.contiguous(),
        owner,
        size,
        bids * size,
        SIZE=triton.next_power_of_2(size),
        num_warps=1,
    )
    return owner
