"""What a comparison makes of a method, beside what the method makes in a job of its own, by perplexity.

    python -m benchmarks.compared [--calibration SOURCE] [--evaluation SOURCE] [--samples 8] [--windows 8]
        [--length 256] [--pattern 2:4]

SmolLM2-135M, one seed. Why they differ: docs/method.md, "Comparisons".
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.results import keep, short
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.report import Evaluation
from eggs_core.spec import CalibrationSpec, ComparedSpec, EvaluationSpec, Method, PruneSpec

MODEL = "smollm2-135m-instruct"
METHODS = Method.WANDA, Method.SPARSEGPT
JOBS = Method.RIA, Method.EGGS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--pattern", type=NMPattern.parse, default=NMPattern(2, 4))
    arguments = parser.parse_args()

    def evaluated(**changes: Any) -> Evaluation:
        spec = PruneSpec(
            model=MODEL,
            pattern=arguments.pattern,
            calibration=CalibrationSpec(
                source=arguments.calibration, samples=arguments.samples, sequence_length=arguments.length
            ),
            evaluation=EvaluationSpec(
                sources=(arguments.evaluation,),
                samples=arguments.windows,
                sequence_length=arguments.length,
                generations=0,
            ),
            **changes,
        )
        with tempfile.TemporaryDirectory() as out:
            report = prune(spec, Path(out), cache_dir=Path(cache))
        assert report.evaluation is not None
        return report.evaluation

    with tempfile.TemporaryDirectory() as cache:
        own = {method: evaluated(method=method).texts[0].perplexity.pruned for method in METHODS}
        entries = tuple(ComparedSpec(method=method) for method in METHODS)
        compared = {
            job: {of.method: of.perplexities[0] for of in evaluated(method=job, compare=entries).compared}
            for job in JOBS
        }
    rows = [
        {"method": str(method), "in a job of its own": own[method]}
        | {f"compared with {job}": compared[job][method] for job in JOBS}
        for method in METHODS
    ]
    keep(
        "compared",
        f"python -m benchmarks.compared --calibration {short(arguments.calibration)} "
        f"--evaluation {short(arguments.evaluation)} --samples {arguments.samples} --windows {arguments.windows} "
        f"--length {arguments.length} --pattern {arguments.pattern}",
        rows,
        "`eggs` with effort `balanced`.",
    )


if __name__ == "__main__":
    main()
