"""Products by the Triton kernel on the CPU, against those in float64; see test_triton.py. Run with
TRITON_INTERPRET=1."""

import sys

import torch

from eggs_core.kernels import triton_linear
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern
from tests.core.test_kernels import assert_close, sparse


def main() -> None:
    for pattern in map(NMPattern.parse, sys.argv[1:]):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            for rows, groups, tokens in ((1, 1, 1), (37, 40, 3), (64, 9, 16)):
                W = sparse(rows, pattern.m * groups, pattern, dtype, seed=rows)
                x, bias = torch.randn(tokens, pattern.m * groups).to(dtype), torch.randn(rows).to(dtype)
                for b in (None, bias):
                    assert_close(triton_linear.linear(x, *pack(W, pattern), b, pattern), x, W, b)
        x[0, 0] = torch.inf
        y = triton_linear.linear(x, *pack(W, pattern), None, pattern)
        assert torch.equal(y.isnan(), torch.nn.functional.linear(x, W).isnan()), "zeros meet what is infinite"
    print("all products are right")


if __name__ == "__main__":
    main()
