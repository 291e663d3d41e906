"""Ways to choose mask and weights together, by the output error that they leave in single layers.

    python -m benchmarks.layer_error [--calibration SOURCE] [--samples 24] [--held-out 8] [--pattern 2:4]

Layers of SmolLM2-135M in the dense model. Errors are tr((W'-W) G (W'-W)ᵀ) over that of SparseGPT, with G the Gram
matrix of the calibration tokens, and once more with that of the next windows of the text, which nothing was chosen
by.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.results import keep, short
from eggs_core import joint, sparsegpt
from eggs_core.gguf import converted_folder
from eggs_core.importance import ria, wanda
from eggs_core.joint import OutputError, choose, fit
from eggs_core.masks import top_n_mask
from eggs_core.pattern import NMPattern
from eggs_core.sources import resolve_model
from eggs_core.spec import CalibrationSpec
from eggs_core.text import token_windows
from eggs_core.whole import load

MODEL = "smollm2-135m-instruct"
LAYERS = {
    "q, block 7": "model.layers.7.self_attn.q_proj",
    "o, block 7": "model.layers.7.self_attn.o_proj",
    "gate, block 15": "model.layers.15.mlp.gate_proj",
    "down, block 15": "model.layers.15.mlp.down_proj",
    "down, block 29": "model.layers.29.mlp.down_proj",
}

Way = Callable[[Tensor, Tensor, NMPattern], Tensor]
"""W' (C_out, C_in) float32 from W, G and a pattern."""


@contextmanager
def gathering(model: Any) -> Iterator[dict[str, Tensor]]:
    """While open, adds up the Gram matrix, (C_in, C_in) float32, of what enters each of `LAYERS`."""
    grams: dict[str, Tensor] = {}

    def add(name: str, module: Any, args: tuple[Tensor]) -> None:
        X = args[0].flatten(0, -2).float()
        grams[name] = grams[name].addmm_(X.T, X) if name in grams else X.T @ X

    handles = [
        model.get_submodule(path).register_forward_pre_hook(partial(add, name)) for name, path in LAYERS.items()
    ]
    try:
        yield grams
    finally:
        for handle in handles:
            handle.remove()


def by_sparsegpt(W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    return sparsegpt.sparsegpt(W, G, pattern)[0]


def on_mask(mask: Tensor, W: Tensor, G: Tensor) -> Tensor:
    """Least squares on a mask that is given: from weights that were not chosen with it, it takes many steps."""
    error = OutputError(G)
    with patch.object(joint, "FIT_ITERATIONS", 64):
        return fit(W.float(), W.float() * error.scale, mask, error)


def on_importance(
    importance: Callable[[Tensor, Tensor], Tensor], W: Tensor, G: Tensor, pattern: NMPattern
) -> Tensor:
    return on_mask(top_n_mask(importance(W, G.diagonal().sqrt()), pattern), W, G)


def on_sparsegpt(W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    return on_mask(sparsegpt.sparsegpt(W, G, pattern)[1], W, G)


def by_admm(
    W: Tensor, G: Tensor, pattern: NMPattern, *, iterations: int = 5, dampening: float = joint.DAMPENING
) -> Tensor:
    """Of `iterations` for each of the six penalties, without least squares on its mask."""
    error = OutputError(G, dampening)
    with patch.object(joint, "ITERATIONS_PER_STAGE", iterations):
        Y = choose(W, error, pattern)
    return Y.masked_fill(~top_n_mask(Y.abs(), pattern), 0) / error.scale


def by_admm_and_fit(W: Tensor, G: Tensor, pattern: NMPattern, *, dampening: float = joint.DAMPENING) -> Tensor:
    """What effort `balanced` does, with B = 0."""
    error = OutputError(G, dampening)
    Y = choose(W, error, pattern)
    return fit(W, Y, top_n_mask(Y.abs(), pattern), error)


def by_admm_and_least_squares(W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    return on_mask(top_n_mask(choose(W, OutputError(G), pattern).abs(), pattern), W, G)


def in_float32(W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    return by_admm_and_fit(W.float(), G, pattern)


def with_few_penalties(W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    with patch.object(joint, "PENALTIES", (0.15, 0.35, 0.8)), patch.object(joint, "ITERATIONS_PER_STAGE", 10):
        return by_admm_and_fit(W, G, pattern)


def by_sweeps(start: Way, sweeps: int, W: Tensor, G: Tensor, pattern: NMPattern) -> Tensor:
    """Group coordinate descent: in every group the best of all C(M, N) patterns with its best weights, exactly.

    With E = W' - W and the other groups as they are, the error is lowest on a pattern P at t_P inv(G_PP) for
    t = W_g G_gg - (E G)_g + E_g G_gg, and the lower the larger t_P inv(G_PP) t_Pᵀ.
    """
    error = OutputError(G)
    H, target = error.G, W.float() * error.scale
    V = start(W, G, pattern) * error.scale
    patterns = torch.tensor(list(combinations(range(pattern.m), pattern.n)))
    EH = (V - target) @ H
    for _ in range(sweeps):
        for first in range(0, W.shape[1], pattern.m):
            group = slice(first, first + pattern.m)
            own = H[group, group]
            inverses = torch.linalg.inv(own[patterns[:, :, None], patterns[:, None, :]])
            t = target[:, group] @ own - EH[:, group] + (V[:, group] - target[:, group]) @ own
            of_patterns = t[:, patterns]  # (rows, patterns, N)
            best = torch.einsum("rpn,pnk->rpk", of_patterns, inverses)
            taken = (best * of_patterns).sum(dim=2).argmax(dim=1)
            weights = best.gather(1, taken[:, None, None].expand(-1, 1, pattern.n))[:, 0]
            new = torch.zeros_like(t).scatter_(1, patterns[taken], weights)
            EH.addmm_(new - V[:, group], H[group])
            V[:, group] = new
    return V / error.scale


WAYS: dict[str, Way] = {
    "SparseGPT": by_sparsegpt,
    "least squares on Wanda's mask": partial(on_importance, wanda),
    "least squares on RIA's mask": partial(on_importance, ria),
    "least squares on SparseGPT's mask": on_sparsegpt,
    "group coordinate descent, 6 sweeps from SparseGPT's solution": partial(by_sweeps, by_sparsegpt, 6),
    "the same, 30 sweeps": partial(by_sweeps, by_sparsegpt, 30),
    "the same from least squares on Wanda's mask, 12 sweeps": partial(
        by_sweeps, partial(on_importance, wanda), 12
    ),
    "ADMM, 18 iterations": partial(by_admm, iterations=3),
    "ADMM, 30 iterations": by_admm,
    "ADMM, 30 iterations, least squares on its mask": by_admm_and_fit,
    "the same, 64 steps of it instead of 4": by_admm_and_least_squares,
    "the same, all products in float32": in_float32,
    "the same, three penalties of ten iterations": with_few_penalties,
    "the same, dampening 0.001": partial(by_admm_and_fit, dampening=0.001),
    "the same, dampening 0.1": partial(by_admm_and_fit, dampening=0.1),
    "ADMM, 102 iterations": partial(by_admm, iterations=17),
    "ADMM, 30 iterations, least squares, 6 sweeps": partial(by_sweeps, by_admm_and_fit, 6),
}


def error_of(W: Tensor, pruned: Tensor, G: Tensor) -> float:
    E = pruned.double() - W.double()
    return float(((E @ G.double()) * E).sum())


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--pattern", type=NMPattern.parse, default=NMPattern(2, 4))
    arguments = parser.parse_args()
    samples, pattern = arguments.samples, arguments.pattern
    found = resolve_model(MODEL, None)
    assert found.path is not None
    with tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = load(converted_folder(found.path, Path(scratch)))
        spec = CalibrationSpec(source=arguments.calibration, samples=samples + arguments.held_out)
        tokens = token_windows(spec, "calibration", tokenizer, text_roots=None, cache_dir=Path(scratch))
    grams = []
    for windows in (tokens[:samples], tokens[samples:]):
        with gathering(model) as gathered:
            for window in windows:
                model(window[None], logits_to_keep=1)
        grams.append(gathered)
    rows = []
    reference: dict[str, float] = {}
    for name, way in WAYS.items():
        row: dict[str, Any] = {"way": name}
        held_out: dict[str, Any] = {}
        for layer, path in LAYERS.items():
            W = model.get_submodule(path).weight
            pruned = way(W, grams[0][layer], pattern)
            for key, figures, G in (
                (layer, row, grams[0][layer]),
                (f"{layer}, held out", held_out, grams[1][layer]),
            ):
                error = error_of(W, pruned, G)
                figures[key] = error / reference.setdefault(key, error)
        row |= held_out
        rows.append(row)
        print(row, flush=True)
    keep(
        "layer_error",
        f"python -m benchmarks.layer_error --calibration {short(arguments.calibration)} --samples {samples} "
        f"--held-out {arguments.held_out} --pattern {pattern}",
        rows,
        "Errors over those of SparseGPT.",
    )


if __name__ == "__main__":
    main()
