"""What reordering channels gains: kept importance and time by kind of site, then perplexity with and without.

    python -m benchmarks.permutation [--calibration SOURCE] [--evaluation SOURCE] [--samples 16] [--windows 16]
        [--patterns 2:4 4:8 1:4] [--methods ria eggs] [--seeds 0]

Kept importance is the share of all RIA scores that the best N of every group keep, on what the dense blocks of
SmolLM2-135M make of the calibration tokens of the first seed; seconds are those of the search for one layer.
Perplexity is by two whole runs of each method on the same tokens, for every pattern and every seed.
"""

import argparse
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer

from benchmarks.results import keep, short
from eggs_core.checkpoint import Checkpoint
from eggs_core.gguf import converted_folder
from eggs_core.importance import ria
from eggs_core.layers import prunable_layers
from eggs_core.masks import best_score
from eggs_core.pattern import NMPattern
from eggs_core.permute import SiteFinder, best_order
from eggs_core.pipeline import prune
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model
from eggs_core.spec import DEFAULT_IGNORE, CalibrationSpec, EvaluationSpec, Method, PruneSpec
from eggs_core.statistics import gather
from eggs_core.stream import BlockCall, BlockStream
from eggs_core.text import token_windows

MODEL = "smollm2-135m-instruct"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Measured = dict[tuple[str, NMPattern], list[tuple[float, float, float]]]
"""By kind of site and pattern, for each layer: share kept as the channels are, share kept reordered, seconds."""


@torch.no_grad()
def kept_importance(
    calibration: CalibrationSpec, patterns: list[NMPattern], cache: Path
) -> tuple[Measured, float, float]:
    """What every site gains, and the seconds that finding the sites took in the first block and in all others."""
    model = resolve_model(MODEL, None)
    assert model.path is not None
    folder = converted_folder(model.path, cache)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = token_windows(calibration, "calibration", tokenizer, text_roots=None, cache_dir=cache)
    skeleton = Skeleton(Checkpoint(folder), DEVICE)
    stream = BlockStream(skeleton, tokens)
    hidden = stream.embed()
    finder = SiteFinder(skeleton.config)
    measured: Measured = {}
    finding: list[float] = []

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        layers = prunable_layers(block, skeleton.block_names[index], DEFAULT_IGNORE)
        started = time.perf_counter()
        sites = finder.find(block, layers, call, hidden[0])
        finding.append(time.perf_counter() - started)
        with gather(layers, tokens.numel()) as inputs:
            for i, states in enumerate(hidden):
                hidden[i] = call(states, i)
        for site in sites:
            S = ria(site.consumer.weight, inputs[site.consumer.name].norm)
            total = float(S.sum(dtype=torch.float64))
            for pattern in patterns:
                started = time.perf_counter()
                order = best_order(site, S, pattern)
                seconds = time.perf_counter() - started
                before, after = (float(best_score(scores, pattern)) / total for scores in (S, S[:, order]))
                measured.setdefault((site.kind, pattern), []).append((before, after, seconds))

    stream.run(visit)
    return measured, finding[0], sum(finding[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--patterns", nargs="+", default=["2:4", "4:8", "1:4"])
    parser.add_argument(
        "--methods", nargs="+", type=Method, choices=list(Method), default=[Method.RIA, Method.EGGS]
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    patterns = [NMPattern.parse(pattern) for pattern in arguments.patterns]
    calibrations = [
        CalibrationSpec(source=arguments.calibration, samples=arguments.samples, seed=seed)
        for seed in arguments.seeds
    ]
    command = (
        f"python -m benchmarks.permutation --calibration {short(arguments.calibration)} "
        f"--evaluation {short(arguments.evaluation)} --samples {arguments.samples} --windows {arguments.windows} "
        f"--patterns {' '.join(arguments.patterns)} --methods {' '.join(arguments.methods)} "
        f"--seeds {' '.join(map(str, arguments.seeds))}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        measured, first, others = kept_importance(calibrations[0], patterns, Path(scratch, "cache"))
        rows = []
        for (kind, pattern), figures in measured.items():
            before, after, seconds = (list(column) for column in zip(*figures, strict=True))
            gains = [100 * (b / a - 1) for a, b in zip(before, after, strict=True)]
            rows.append(
                {
                    "site": kind,
                    "pattern": str(pattern),
                    "layers": len(figures),
                    "kept %": 100 * statistics.mean(before),
                    "kept reordered %": 100 * statistics.mean(after),
                    "gain %": statistics.mean(gains),
                    "least gain %": min(gains),
                    "seconds a layer": statistics.median(seconds),
                }
            )
        summary = (
            f"Finding the sites took {first:.2f} s in the first block, {others:.3f} s in all others together."
        )
        keep("permutation", command, rows, summary)

        rows = []
        for pattern, method in product(patterns, arguments.methods):
            for calibration, permute in product(calibrations, (False, True)):
                spec = PruneSpec(
                    model=MODEL,
                    pattern=pattern,
                    method=method,
                    permute=permute,
                    calibration=calibration,
                    evaluation=EvaluationSpec(
                        sources=(arguments.evaluation,), samples=arguments.windows, generations=0
                    ),
                )
                with tempfile.TemporaryDirectory(dir=scratch) as out:
                    report = prune(spec, Path(out), cache_dir=Path(scratch, "cache"))
                assert report.evaluation is not None
                rows.append(
                    {
                        "method": str(method),
                        "effort": str(report.effort),
                        "pattern": str(pattern),
                        "seed": calibration.seed,
                        "permute": permute,
                        "dense": report.evaluation.texts[0].perplexity.dense,
                        "pruned": report.evaluation.texts[0].perplexity.pruned,
                        "seconds to prune": report.seconds["prune"],
                    }
                )
                print(rows[-1], flush=True)
    ratios = [
        f"{after['method']} {after['pattern']} {after['pruned'] / before['pruned']:.3f}"
        for before, after in zip(rows[::2], rows[1::2], strict=True)
    ]
    keep(
        "permutation_perplexity",
        command,
        rows,
        f"Perplexity with reordered channels over that without: {', '.join(ratios)}.",
    )


if __name__ == "__main__":
    main()
