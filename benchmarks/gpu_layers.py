"""One layer on a GPU, few tokens: the product with packed weights against torch's with dense ones.

    python -m benchmarks.gpu_layers

Weights in bfloat16, as (C_out, C_in). Median times by Triton's timer, which clears the cache before every call.
"""

import sys
from functools import partial

import torch
from torch import Tensor, nn
from triton.testing import do_bench

from benchmarks.layers import PATTERNS, SHAPES, sparse
from benchmarks.results import keep
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern

TOKENS = (1, 2, 4, 8, 16)


def rows_of(shape: tuple[int, int], pattern: NMPattern) -> list[dict[str, object]]:
    """Rows of the table, one for each number of tokens."""
    generator = torch.Generator().manual_seed(0)
    W = sparse(shape, pattern, generator).cuda()
    values, mask = pack(W, pattern)
    return [row_of(torch.randn(tokens, shape[1]).bfloat16().cuda(), W, values, mask, pattern) for tokens in TOKENS]


def row_of(x: Tensor, W: Tensor, values: Tensor, mask: Tensor, pattern: NMPattern) -> dict[str, object]:
    packed = partial(torch.ops.eggs.nm_linear, x, values, mask, None, pattern.n, pattern.m)
    dense = partial(nn.functional.linear, x, W)
    torch.testing.assert_close(packed(), dense(), rtol=2e-2, atol=2e-1)
    taken = {name: do_bench(call, return_mode="median") * 1e3 for name, call in (("p", packed), ("d", dense))}
    return {
        "C_out × C_in": f"{W.shape[0]} × {W.shape[1]}",
        "pattern": str(pattern),
        "tokens": len(x),
        "dense µs": taken["d"],
        "packed µs": taken["p"],
        "packed GB/s": (values.nbytes + mask.nbytes) / taken["p"] / 1e3,
        "faster than dense": taken["d"] / taken["p"],
    }


def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here.")
    table = [row for shape in SHAPES for pattern in PATTERNS for row in rows_of(shape, NMPattern.parse(pattern))]
    keep("gpu_layers", "python -m benchmarks.gpu_layers", table, "Medians.")


if __name__ == "__main__":
    main()
