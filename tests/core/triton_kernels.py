"""Products by the Triton kernel on the CPU, against those in float64, and auctions, against numpy's; see
test_triton.py. Run with TRITON_INTERPRET=1."""

import sys

import torch

from eggs_core.assignment import BIDS
from eggs_core.kernels import triton_auction, triton_linear
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern
from tests.core.auctions import by_numpy, problems
from tests.core.test_kernels import assert_close, sparse


def check_auctions() -> None:
    for count, size, values in ((1, 1, 9), (2, 3, 2), (3, 16, 1), (2, 21, 10**6)):
        auction = problems(count, size, values, seed=size)
        for bids in (1, BIDS):
            assert torch.equal(triton_auction.auction(*auction, bids), by_numpy(*auction, bids)), auction


def check_products() -> None:
    for pattern in map(NMPattern.parse, sys.argv[1:]):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for rows, groups, tokens in ((1, 1, 1), (5, 300, 1), (37, 40, 3), (64, 9, 16)):
                W = sparse(rows, pattern.m * groups, pattern, dtype, seed=rows)
                x, bias = torch.randn(tokens, pattern.m * groups).to(dtype), torch.randn(rows).to(dtype)
                for b in (None, bias):
                    assert_close(triton_linear.linear(x, *pack(W, pattern), b, pattern), x, W, b)
        x[0, 0] = torch.inf
        y = triton_linear.linear(x, *pack(W, pattern), None, pattern)
        assert torch.equal(y.isnan(), torch.nn.functional.linear(x, W).isnan()), "zeros meet what is infinite"


def main() -> None:
    check_auctions()
    check_products()
    print("all are right")


if __name__ == "__main__":
    main()
