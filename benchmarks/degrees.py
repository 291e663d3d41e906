"""What the constraint of B edges an input channel does: to the graph, to the perplexity, and to the time.

    python -m benchmarks.degrees [--calibration SOURCE] [--evaluation SOURCE] [--samples 24] [--windows 32]
        [--pattern 2:4] [--efforts fast balanced] [--min-degrees 0 auto 16 48 96] [--permute]

One seed; SmolLM2-135M, as the service prunes it, but for the order of the channels, which stays unless `--permute`
is given: the order changes more than B does. The graph's figures are those of the report, see docs/expansion.md.
The last column is that of a mask drawn at random, about √(1 - N/M).
"""

import argparse
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.results import keep, short
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.spec import CalibrationSpec, Effort, EvaluationSpec, PruneSpec

MODEL = "smollm2-135m-instruct"


def measure(spec: PruneSpec, cache: Path) -> dict[str, Any]:
    """A run's row."""
    with tempfile.TemporaryDirectory() as out:
        report = prune(spec, Path(out), cache_dir=cache)
    assert report.evaluation is not None
    layers, graph = report.layers, report.expansion
    return {
        "effort": str(report.effort),
        "B asked for": spec.effective_min_degree,
        "least B": report.min_degree,
        "greatest B": max(layer.min_degree for layer in layers),
        "fewest edges": graph.min_input_degree,
        "cut off": graph.channels_cut_off,
        "least neighbourhood ratio": graph.min_neighbourhood_ratio,
        "largest σ₂ / Ramanujan": graph.max_ramanujan_ratio,
        "mean importance given up": 1 - fmean(layer.kept_importance for layer in layers),
        "perplexity": report.evaluation.texts[0].perplexity.pruned,
        "seconds to prune": report.seconds["prune"],
        "σ₂ / Ramanujan at random": (1 - spec.pattern.density) ** 0.5,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--efforts", nargs="+", type=Effort, default=[Effort.FAST, Effort.BALANCED])
    parser.add_argument("--min-degrees", nargs="+", default=["0", "auto", "16", "48", "96"])
    parser.add_argument("--permute", action="store_true")
    arguments = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for effort in arguments.efforts:
            for asked in arguments.min_degrees:
                spec = PruneSpec(
                    model=MODEL,
                    pattern=NMPattern.parse(arguments.pattern),
                    effort=effort,
                    min_degree="auto" if asked == "auto" else int(asked),
                    permute=arguments.permute,
                    calibration=CalibrationSpec(source=arguments.calibration, samples=arguments.samples),
                    evaluation=EvaluationSpec(
                        sources=(arguments.evaluation,), samples=arguments.windows, generations=0
                    ),
                )
                rows.append(measure(spec, Path(cache)))
                print(rows[-1], flush=True)
    keep(
        "degrees",
        f"python -m benchmarks.degrees --calibration {short(arguments.calibration)} "
        f"--evaluation {short(arguments.evaluation)} --samples {arguments.samples} --windows {arguments.windows} "
        f"--pattern {arguments.pattern} --efforts {' '.join(arguments.efforts)} "
        f"--min-degrees {' '.join(arguments.min_degrees)}" + (" --permute" if arguments.permute else ""),
        rows,
        "An input channel has N/M · C_out edges where all have as many. That is 96 at 2:4 in the keys and values "
        "of this model, so that no greater B can be met.",
    )


if __name__ == "__main__":
    main()
