"""Perplexity of the methods on one model, the same calibration tokens and the same held-out windows.

python -m benchmarks.quality [--calibration SOURCE] [--evaluation SOURCE] [--samples 32] [--windows 64]
    [--pattern 2:4] [--seeds 0]
"""

import argparse
import tempfile
from pathlib import Path

from benchmarks.results import keep
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.spec import CalibrationSpec, EvaluationSpec, Method, PruneSpec

MODEL = "smollm2-135m-instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in arguments.seeds:
            for method in (Method.MAGNITUDE, Method.WANDA, Method.RIA, Method.EGGS):
                spec = PruneSpec(
                    model=MODEL,
                    pattern=NMPattern.parse(arguments.pattern),
                    method=method,
                    calibration=CalibrationSpec(
                        source=arguments.calibration, samples=arguments.samples, seed=seed
                    ),
                    evaluation=EvaluationSpec(source=arguments.evaluation, samples=arguments.windows),
                )
                report = prune(spec, Path(scratch, f"{method}-{seed}"), cache_dir=Path(scratch, "cache"))
                assert report.perplexity is not None
                rows.append(
                    {
                        "method": str(method),
                        "seed": seed,
                        "min_degree": report.min_degree,
                        "dense": report.perplexity.dense,
                        "pruned": report.perplexity.pruned,
                        "fewest edges of a channel": report.expansion.min_input_degree,
                        "seconds to prune": report.seconds["prune"],
                    }
                )
                print(rows[-1], flush=True)
    eggs, ria = (
        [row["pruned"] for row in rows if row["method"] == method] for method in (Method.EGGS, Method.RIA)
    )
    ratios = ", ".join(f"{e / r:.3f}" for e, r in zip(eggs, ria, strict=True))
    command = (
        f"python -m benchmarks.quality --calibration {_short(arguments.calibration)} "
        f"--evaluation {_short(arguments.evaluation)} --samples {arguments.samples} --windows {arguments.windows} "
        f"--pattern {arguments.pattern} --seeds {' '.join(map(str, arguments.seeds))}"
    )
    keep("quality", command, rows, f"Perplexity of EGGS over that of RIA, by seed: {ratios}.")


def _short(source: str) -> str:
    return f"file:{Path(source).name}" if source.startswith("file:") else source


if __name__ == "__main__":
    main()
