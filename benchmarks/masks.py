"""Time to choose the mask of one large layer, against a plain read of its weights and scores; and what it keeps.

    python -m benchmarks.masks [--rows 4096] [--columns 11008] [--min-degree 16] [--rounds 9]

Weights in bfloat16 and scores in float32, as pruning has them; the read adds both up. The scores are those of RIA,
of weights drawn at random, with input channels whose norms spread as log-normal. Timed are the best N of every
group, the expander constraint solved both ways at a given B, and the matching with the B that auto chooses, each
from the scores to the mask. Times are medians over the rounds, and so are the ratios, each to its round's read.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import truediv
from typing import Any

import torch

from benchmarks.results import keep, of_processor
from eggs_core.diagonals import diagonal_mask
from eggs_core.importance import ria
from eggs_core.masks import best_score, kept_score, top_n_mask
from eggs_core.matching import auto_matching, matching_mask
from eggs_core.memory import map_large_tensors
from eggs_core.pattern import NMPattern

PATTERNS = ("2:4", "1:4", "4:8", "8:16")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def milliseconds(work: Callable[[], object]) -> float:
    _finish()
    started = time.perf_counter()
    work()
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
    asked = arguments.min_degree
    rows: list[dict[str, Any]] = []
    for pattern in map(NMPattern.parse, PATTERNS):
        works: dict[str, Callable[[], object]] = {
            "read": lambda: (W.sum(), S.sum()),
            "top N": partial(top_n_mask, S, pattern),
            "diagonals": partial(diagonal_mask, S, pattern, asked),
            "matching": partial(matching_mask, S, pattern, asked),
            "auto": partial(auto_matching, S, pattern),
        }
        times: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(arguments.rounds):
            for name, work in works.items():
                times[name].append(milliseconds(work))
        best = best_score(S, pattern)
        matching = matching_mask(S, pattern, asked)
        auto, chosen = auto_matching(S, pattern)
        rows.append(
            {"pattern": str(pattern), "bytes read": W.nbytes + S.nbytes}
            | {f"{name} ms": statistics.median(values) for name, values in times.items()}
            | {
                f"{name} / read": statistics.median(map(truediv, values, times["read"]))
                for name, values in times.items()
                if name != "read"
            }
            | {
                "diagonals give up": 1 - float(kept_score(S, diagonal_mask(S, pattern, asked)) / best),
                "matching gives up": 1 - float(kept_score(S, matching.mask) / best),
                "matching's duality gap": float(matching.duality_gap),
                "auto's B": int(chosen),
                "auto gives up": 1 - float(kept_score(S, auto.mask) / best),
                "auto's duality gap": float(auto.duality_gap),
            }
        )
        print(rows[-1], flush=True)
    keep(
        of_processor("masks"),
        f"OMP_NUM_THREADS={torch.get_num_threads()} python -m benchmarks.masks --rows {shape[0]} "
        f"--columns {shape[1]} --min-degree {asked} --rounds {arguments.rounds}",
        rows,
        f"Diagonals and matching at B = {asked}. Against the read, the best N take at most "
        f"{_most(rows, 'top N')} times as long, the matching {_most(rows, 'matching')}, and with auto "
        f"{_most(rows, 'auto')}.",
    )


def _most(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    return f"{max(row[f'{name} / read'] for row in rows):.1f}"


if __name__ == "__main__":
    main()
