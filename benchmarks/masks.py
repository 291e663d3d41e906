"""Time to choose the mask of one large layer, against a plain read of its weights and scores; and what it keeps.

    python -m benchmarks.masks [--rows 4096] [--columns 11008] [--min-degree 16] [--rounds 9]

Weights in bfloat16 and scores in float32, as pruning has them; the read adds both up. The scores are those of RIA,
of weights drawn at random, with input channels whose norms spread as log-normal. The expander constraint is solved
both ways, at a given B. Medians over the rounds; auto is timed once.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.results import keep
from eggs_core.diagonals import diagonal_mask
from eggs_core.importance import ria
from eggs_core.masks import best_score, kept_score, top_n_mask
from eggs_core.matching import auto_matching, matching_mask
from eggs_core.memory import map_large_tensors
from eggs_core.pattern import NMPattern

PATTERNS = ("2:4", "4:8", "1:4", "8:16")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def milliseconds(work: Callable[[NMPattern], object], pattern: NMPattern) -> float:
    _finish()
    started = time.perf_counter()
    work(pattern)
    _finish()
    return (time.perf_counter() - started) * 1e3


def _finish() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=11008)
    parser.add_argument("--min-degree", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()

    map_large_tensors()
    generator = torch.Generator(DEVICE).manual_seed(0)
    shape = (arguments.rows, arguments.columns)
    W = torch.randn(shape, generator=generator, device=DEVICE).bfloat16()
    S = ria(W, torch.randn(arguments.columns, generator=generator, device=DEVICE).exp())
    works: dict[str, Callable[[NMPattern], object]] = {
        "read": lambda pattern: (W.sum(), S.sum()),
        "top N": lambda pattern: top_n_mask(S, pattern),
        "diagonals": lambda pattern: diagonal_mask(S, pattern, arguments.min_degree),
        "matching": lambda pattern: matching_mask(S, pattern, arguments.min_degree),
    }
    rows = []
    for pattern in map(NMPattern.parse, PATTERNS):
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(arguments.rounds):
            for name, work in works.items():
                times[name].append(milliseconds(work, pattern))
        median = {name: statistics.median(values) for name, values in times.items()}
        started = time.perf_counter()
        _, auto = auto_matching(S, pattern)
        seconds = time.perf_counter() - started
        best = best_score(S, pattern)
        diagonals = diagonal_mask(S, pattern, arguments.min_degree)
        matching = matching_mask(S, pattern, arguments.min_degree)
        rows.append(
            {"pattern": str(pattern), "bytes read": W.nbytes + S.nbytes}
            | {f"{name} ms": value for name, value in median.items()}
            | {
                "top N / read": median["top N"] / median["read"],
                "diagonals give up": 1 - kept_score(S, diagonals) / best,
                "matching gives up": 1 - kept_score(S, matching.mask) / best,
                "duality gap": matching.duality_gap,
                "auto B": auto,
                "auto s": seconds,
            }
        )
        print(rows[-1], flush=True)
    keep(
        "masks",
        f"python -m benchmarks.masks --rows {shape[0]} --columns {shape[1]} "
        f"--min-degree {arguments.min_degree} --rounds {arguments.rounds}",
        rows,
        f"The best N of every group take {rows[0]['top N / read']:.1f} times the read at {PATTERNS[0]}.",
    )


if __name__ == "__main__":
    main()
