"""Triton's kernels on the CPU: products against those in float64, auctions against numpy's, b-matchings against
those of `eggs_core.b_matching`. See test_triton.py. Run with TRITON_INTERPRET=1."""

import sys

import torch
from torch import Tensor

from eggs_core import matching_on_gpu
from eggs_core.assignment import BIDS
from eggs_core.b_matching import UNITS, Problem
from eggs_core.kernels import triton_auction, triton_b_matching, triton_linear
from eggs_core.masks import top_n
from eggs_core.matching import auto_matching, matching_mask
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


def scores(pattern: NMPattern, rows: int, groups: int, values: int | None = None) -> Tensor:
    """With channels of different size, many of them short of edges; of so many values."""
    columns = pattern.m * groups
    generator = torch.Generator().manual_seed(rows)
    S = torch.rand(rows, columns, generator=generator)
    S *= torch.rand(columns, generator=generator)
    return S if values is None else (S * values).floor()


def check_b_matchings() -> None:
    for pattern, rows, values, need in (
        (NMPattern(2, 4), 260, None, 120),  # rows of more than one tile
        (NMPattern(2, 4), 20, 2, 10),  # of zeros alone, and nothing to spare
        (NMPattern(4, 8), 12, 3, 5),
        (NMPattern(3, 5), 17, None, 10),
        (NMPattern(1, 32), 33, None, 1),
    ):
        S = scores(pattern, rows, groups=2, values=values)
        S[:, 0] = 0
        _, _, degree = top_n(S, pattern)
        degree[pattern.m :] = rows  # nothing is to be done for the second group
        most = torch.tensor(need)
        P, unit = triton_b_matching.take(S, degree, most, pattern)
        group = S[:, : pattern.m].double()
        assert unit.tolist() == [float(group.max().clamp(min=torch.finfo(torch.float32).tiny) / UNITS), 0]
        assert torch.equal(P[0], (group / unit[0]).round().long().T)
        multipliers, kept, sums = most.new_ones(2, pattern.m), torch.zeros_like(P).byte(), most.new_ones(2, 3)
        triton_b_matching.solve(P, pattern, degree, most, torch.tensor(-1), multipliers, kept, sums)
        problem = Problem(P[:1], pattern.n, torch.full((1, pattern.m), need))
        expected, edges, value, best = problem.solve(problem.multipliers())
        assert int(edges.min()) >= need
        assert int(kept[0].sum(dim=1).min()) >= need
        if values is None:  # of equals others are kept
            assert torch.equal(kept[:1], expected.byte())
            assert torch.equal(multipliers[:1], best)
        assert torch.equal(sums[0], torch.cat([problem.bound(best * 0), value, problem.bound(multipliers[:1])]))
        assert sums[0, 1] == sums[0, 2]
        assert not torch.cat([multipliers[1], sums[1]]).any()
        untouched = [torch.full_like(found, 3) for found in (multipliers, kept, sums)]
        triton_b_matching.solve(P, pattern, degree, most, most, *untouched)
        assert all(bool((found == 3).all()) for found in untouched), "solved again"


def check_masks() -> None:
    pattern = NMPattern(2, 4)
    S = scores(pattern, rows=20, groups=3).T.contiguous().T  # as scores of a transposed layer lie
    for min_degree in (0, 9):
        found, expected = (way(S, pattern, min_degree) for way in (matching_on_gpu.matching_mask, matching_mask))
        assert torch.equal(found.mask, expected.mask)
        assert float(found.duality_gap) == expected.duality_gap == 0
    steps = matching_on_gpu._NEWTON_STEPS
    for newton, tolerance in ((steps, 0.0001), (steps, 0.02), (steps, 10), (0, 0.02)):
        matching_on_gpu._NEWTON_STEPS = newton  # without any, by halving alone
        matching, found_degree = matching_on_gpu.auto_matching(S, pattern, tolerance)
        expected, expected_degree = auto_matching(S, pattern, tolerance=tolerance)
        assert int(found_degree) == expected_degree, tolerance
        assert torch.equal(matching.mask, expected.mask)
    S[3], S[:, 4] = torch.nan, torch.inf
    spoilt = matching_on_gpu.auto_matching(S, pattern, 0.01)[0], matching_on_gpu.matching_mask(S, pattern, 9)
    assert all(matching.mask.shape == S.shape for matching in spoilt), "ends, whatever the scores"


def main() -> None:
    check_auctions()
    check_b_matchings()
    check_masks()
    check_products()
    print("all are right")


if __name__ == "__main__":
    main()
