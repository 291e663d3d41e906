"""Mask and weights against the output error: SparseGPT by its formulas, ADMM against it and the optimum."""

import itertools

import pytest
import torch
from torch import Tensor

from eggs_core import joint as joint_module
from eggs_core.joint import OutputError, choose, fit
from eggs_core.masks import top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.sparsegpt import DAMPENING, sparsegpt
from tests.core.mask_problems import both_ways, computed_by

PATTERNS = [NMPattern(2, 4), NMPattern(1, 4), NMPattern(4, 8), NMPattern(3, 16), NMPattern(4, 4)]


def problem(rows: int, columns: int, seed: int, tokens: int = 256) -> tuple[Tensor, Tensor]:
    """Weights, and the Gram matrix of inputs that are correlated and of uneven size."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    X = torch.randn(tokens, columns, generator=generator) @ mixing
    X *= torch.rand(columns, generator=generator) * 2 + 0.1
    return torch.randn(rows, columns, generator=generator), X.T @ X


def error(W: Tensor, pruned: Tensor, G: Tensor) -> float:
    E = (pruned - W).double()
    return float(((E @ G.double()) * E).sum())


def joint(W: Tensor, G: Tensor, pattern: NMPattern) -> tuple[Tensor, Tensor]:
    output_error = OutputError(G)
    Y = choose(W, output_error, pattern)
    mask = top_n_mask(Y.abs(), pattern)
    return fit(W, Y, mask, output_error), mask


def assert_pattern(pruned: Tensor, mask: Tensor, pattern: NMPattern) -> None:
    assert bool((mask.reshape(-1, pattern.m).sum(dim=1) == pattern.n).all())
    assert torch.equal(pruned != 0, mask)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_sparsegpt_is_the_papers(pattern: NMPattern) -> None:
    """Against Algorithm 1 written out with the inverse of what is left of H at every column."""
    W, G = problem(12, 160, seed=0)
    pruned, mask = sparsegpt(W, G, pattern)
    assert_pattern(pruned, mask, pattern)

    H = G.double() + DAMPENING * G.diagonal().mean().double() * torch.eye(160, dtype=torch.float64)
    V = W.double()
    keep = torch.ones_like(V, dtype=torch.bool)
    for j in range(160):
        inverse = torch.linalg.inv(H[j:, j:])
        if j % pattern.m == 0:
            ahead = [torch.linalg.inv(H[k:, k:])[0, 0] for k in range(j, j + pattern.m)]
            scores = V[:, j : j + pattern.m].square() / torch.stack(ahead)
            dropped = scores.argsort(dim=1)[:, : pattern.m - pattern.n]
            keep[:, j : j + pattern.m] = torch.ones_like(scores, dtype=torch.bool).scatter(1, dropped, False)
        gone = V[:, j] * ~keep[:, j]
        V[:, j:] -= torch.outer(gone / inverse[0, 0], inverse[0])
    assert torch.equal(mask, keep)
    torch.testing.assert_close(pruned.double(), V * keep, rtol=1e-3, atol=1e-4)


@both_ways
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_chosen_together_is_better_than_sparsegpt(pattern: NMPattern, seed: int, way: str) -> None:
    W, G = problem(48, 128, seed)
    with computed_by(way):
        pruned, mask = joint(W, G, pattern)
    assert_pattern(pruned, mask, pattern)
    theirs, _ = sparsegpt(W, G, pattern)
    if pattern.n == pattern.m:
        torch.testing.assert_close(pruned, W, rtol=1e-4, atol=1e-4)
    else:
        assert error(W, pruned, G) < 0.95 * error(W, theirs, G)


def test_close_to_the_best_of_all_masks() -> None:
    """Three groups of four have 216 masks; the least error of each row over all of them is found by trying."""
    pattern = NMPattern(2, 4)
    W, G = problem(64, 12, seed=1)
    pairs = [torch.tensor(pair) for pair in itertools.combinations(range(4), 2)]
    best = torch.full((64,), torch.inf, dtype=torch.float64)
    G64, W64 = G.double(), W.double()
    for choice in itertools.product(pairs, repeat=3):
        kept = torch.cat([4 * group + pair for group, pair in enumerate(choice)])
        target = (W64 @ G64)[:, kept]
        fitted = torch.linalg.solve(G64[kept][:, kept], target.T).T
        best = torch.minimum(best, ((W64 @ G64) * W64).sum(dim=1) - (fitted * target).sum(dim=1))
    pruned, _ = joint(W, G, pattern)
    assert float(best.sum()) <= error(W, pruned, G) <= 1.15 * float(best.sum())


def test_fit_is_least_squares_on_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as a row has unknowns end at the solution, from anywhere."""
    monkeypatch.setattr(joint_module, "FIT_ITERATIONS", 16)
    W, G = problem(16, 32, seed=2, tokens=4096)
    output_error = OutputError(G)
    mask = top_n_mask(W.abs(), NMPattern(2, 4))
    start = (W * output_error.scale).masked_fill(~mask, 0)
    fitted = fit(W, start, mask, output_error)
    H = G + 0.01 * G.diagonal().mean() * torch.eye(32)
    for row in range(16):
        kept = mask[row].nonzero().flatten()
        exact = torch.linalg.solve(H[kept][:, kept], (W[row] @ H)[kept])
        torch.testing.assert_close(fitted[row, kept], exact, rtol=1e-3, atol=1e-3)
    assert float(output_error.of(W, fitted)) < float(output_error.of(W, W * mask))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fit_is_near_least_squares_in_the_steps_it_takes(dtype: torch.dtype) -> None:
    W, G = problem(64, 256, seed=2, tokens=4096)
    W = W.to(dtype)
    fitted, mask = joint(W, G, NMPattern(2, 4))
    H = G + 0.01 * G.diagonal().mean() * torch.eye(256)
    exact = torch.zeros_like(fitted)
    for row in range(64):
        kept = mask[row].nonzero().flatten()
        exact[row, kept] = torch.linalg.solve(H[kept][:, kept], (W[row].float() @ H)[kept])
    output_error = OutputError(G)
    least = float(output_error.of(W, exact))
    assert least * 0.9999 < float(output_error.of(W, fitted)) < least * 1.001


def test_output_error_is_that_of_the_dampened_gram_matrix() -> None:
    W, G = problem(8, 16, seed=3)
    pruned = W * top_n_mask(W.abs(), NMPattern(2, 4))
    H = G + 0.01 * G.diagonal().mean() * torch.eye(16)
    assert float(OutputError(G).of(W, pruned)) == pytest.approx(error(W, pruned, H), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_that_are_always_zero_or_few(dtype: torch.dtype) -> None:
    """A Gram matrix of low rank with empty rows, as of an expert that few tokens reach."""
    W, G = problem(16, 32, seed=4, tokens=3)
    G[5], G[:, 5] = 0, 0
    for G_ in (G, torch.zeros_like(G)):
        pruned, mask = joint(W.to(dtype), G_, NMPattern(2, 4))
        assert bool(pruned.isfinite().all())
        assert bool((mask.reshape(-1, 4).sum(dim=1) == 2).all())
    theirs, _ = sparsegpt(W.to(dtype), G, NMPattern(2, 4))
    assert bool(theirs.isfinite().all())


@pytest.mark.parametrize("tokens", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_inputs_of_a_few_tokens_again_and_again(dtype: torch.dtype, tokens: int) -> None:
    """Rounded, such a Gram matrix is not definite; yet a fit makes nothing worse."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(tokens, 256, generator=generator).to(dtype).float()
    W, G = torch.randn(32, 256, generator=generator).to(dtype), X.T @ X
    output_error = OutputError(G)
    Y = choose(W, output_error, NMPattern(2, 4))
    mask = top_n_mask(Y.abs(), NMPattern(2, 4))
    before = output_error.of(W, Y.masked_fill(~mask, 0) / output_error.scale)
    assert float(output_error.of(W, fit(W, Y, mask, output_error))) <= 1.0001 * float(before)


@both_ways
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_how_large_the_inputs_are_does_not_matter(dtype: torch.dtype, way: str) -> None:
    """Float16 holds each of a thousand large inputs, but not their norm times a weight."""
    W, G = problem(16, 32, seed=6)
    with computed_by(way):
        pruned, mask = joint(W.to(dtype), G, NMPattern(2, 4))
        of_large, mask_of_large = joint(W.to(dtype), G * 2.0**40, NMPattern(2, 4))
    assert torch.equal(mask, mask_of_large)
    assert torch.equal(pruned, of_large)


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    W, G = problem(40, 64, seed=5)
    whole, _ = joint(W, G, NMPattern(2, 4))
    monkeypatch.setattr("eggs_core.joint._TILE_ELEMENTS", 7 * 64)
    tiled, _ = joint(W, G, NMPattern(2, 4))
    torch.testing.assert_close(whole, tiled)
