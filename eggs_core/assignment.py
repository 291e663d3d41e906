"""The best assignment of columns to rows, all but exactly: an auction, begun close to the end."""

import numpy
import torch
from torch import Tensor

from eggs_core import kernels

# Of the prices to begin with, in scales of the costs: those of the coarse help the fine.
_TEMPERATURES = (0.5, 0.2, 0.08)
# By which a bid raises a price above what is needed, in the same scale.
_STEP = 0.001
BIDS = 32
"""For each row, after which the step is doubled: so that the auction ends soon, whatever the costs."""


def best_assignment(gains: Tensor) -> Tensor:
    """For each of k square matrices (k, a, a) float32, finite, which column each row takes, every one another, so
    that the sum of their entries is all but the largest; (k, a) int64, on the device of `gains`.

    An auction (Bertsekas, "Auction algorithms for network flow problems", 1992): rows bid for columns, one after
    the other, the outbid next. It falls short of the largest sum by a steps at most, where a step is a thousandth
    of what a cost is in the median row, or more where 32 bids a row are not enough. With prices to begin with from
    the entropic problem (Sinkhorn's iteration; Peyré and Cuturi, "Computational Optimal Transport", 2019, chapter
    4), of 384 rows each bids some four times.
    """
    cost = gains.amax(dim=2, keepdim=True) - gains
    cost -= cost.amin(dim=1, keepdim=True)  # what is taken off a column changes no assignment
    scale = cost.mean(dim=2, keepdim=True).median(dim=1, keepdim=True).values
    scale = torch.where(scale > 0, scale, 1)
    price = torch.zeros_like(cost[:, :1])
    for share in _TEMPERATURES:
        temperature = share * scale
        of_rows = temperature * (-(cost + price) / temperature).logsumexp(dim=2, keepdim=True)
        price = temperature * (-(cost + of_rows) / temperature).logsumexp(dim=1, keepdim=True)
    # What is not finite, where sums were too large for float32, would never end.
    cost, price, step = (T.nan_to_num() for T in (cost, price[:, 0].double(), _STEP * scale[:, 0, 0].double()))
    return _auction(cost, price, step).argsort(dim=1)


def _auction(cost: Tensor, price: Tensor, step: Tensor) -> Tensor:
    """Which row gets each column, (k, a) int64, at `cost` (k, a, a) float32 and what it bids, from `price` (k, a)
    float64 on by `step` (k,) float64: a row bids for its cheapest column, of equals the first, so much that it has
    it a step dearer than the next."""
    if kernels.by_triton(cost):
        from eggs_core.kernels import triton_auction

        return triton_auction.auction(cost, price, step, BIDS)
    if kernels.available():
        return kernels.auction(cost.cpu(), price.cpu(), step.cpu(), BIDS).to(cost.device)
    problems = zip(cost.cpu().numpy(), price.cpu().numpy(), step.tolist(), strict=True)
    owners = [auction_by_numpy(*problem, BIDS) for problem in problems]
    return torch.from_numpy(numpy.stack(owners)).to(cost.device)


def auction_by_numpy(cost: numpy.ndarray, price: numpy.ndarray, step: float, bids: int) -> numpy.ndarray:
    """The row that gets each column, (a,) int64; `bids` a row until the step is doubled. Raises `price`."""
    owner, made = numpy.full(len(cost), -1), 0
    for first in range(len(cost)):
        row = first
        while row >= 0:
            total = cost[row] + price
            column = total.argmin()
            lowest, total[column] = total[column], numpy.inf
            price[column] += total.min() - lowest + step
            row, owner[column] = owner[column], row
            made += 1
            if made % (bids * len(cost)) == 0:
                step *= 2
    return owner
