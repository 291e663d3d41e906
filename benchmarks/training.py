"""Ways to train a pruned block, by the perplexity of a model whose first blocks are pruned and the rest dense.

    python -m benchmarks.training [--calibration SOURCE] [--evaluation SOURCE] [--samples 16] [--windows 12]
        [--pattern 2:4] [--blocks 4]

SmolLM2-135M, effort `best`; one seed. The error is that of the batches held out, the mean over the blocks.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from unittest.mock import patch

from benchmarks.results import keep, short
from eggs_core import prune as pruning
from eggs_core import reconstruct as training
from eggs_core.pattern import NMPattern
from eggs_core.pipeline import prune
from eggs_core.report import BlockTraining
from eggs_core.solve import PrunedLayer
from eggs_core.spec import CalibrationSpec, Effort, EvaluationSpec, PruneSpec

MODEL = "smollm2-135m-instruct"
BLOCKS = 30


def in_turn(pruned: Sequence[PrunedLayer], *arguments: Any) -> BlockTraining:
    """Trains attention, then the MLP, each with the rest of the block as it is."""
    attention = [entry for entry in pruned if ".self_attn." in entry.layer.name]
    first = training.reconstruct(attention, *arguments)
    second = training.reconstruct([entry for entry in pruned if entry not in attention], *arguments)
    return second.model_copy(update={"error_before": first.error_before})


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "not at all": nullcontext,
    "at once": nullcontext,
    "attention, then the MLP": partial(patch.object, pruning, "reconstruct", in_turn),
    "at once, half the learning rate": partial(
        patch.object, training, "LEARNING_RATE", training.LEARNING_RATE / 2
    ),
    "at once, twice the epochs": partial(patch.object, training, "EPOCHS", 2 * training.EPOCHS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", default="pydocs")
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--pattern", type=NMPattern.parse, default=NMPattern(2, 4))
    parser.add_argument("--blocks", type=int, default=4)
    arguments = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, way in WAYS.items():
            spec = PruneSpec(
                model=MODEL,
                pattern=arguments.pattern,
                effort=Effort.BALANCED if name == "not at all" else Effort.BEST,
                ignore=tuple(f"model.layers.{block}.*" for block in range(arguments.blocks, BLOCKS)),
                calibration=CalibrationSpec(source=arguments.calibration, samples=arguments.samples),
                evaluation=EvaluationSpec(
                    sources=(arguments.evaluation,), samples=arguments.windows, generations=0
                ),
            )
            with way(), tempfile.TemporaryDirectory(dir=scratch) as out:
                report = prune(spec, Path(out), cache_dir=Path(scratch, "cache"))
            assert report.evaluation is not None
            trained = [block for block in report.training if block.skipped is None]
            assert len(trained) == (arguments.blocks if spec.effort is Effort.BEST else 0)
            rows.append(
                {
                    "training": name,
                    "perplexity": report.evaluation.texts[0].perplexity.pruned,
                    "error before": fmean(block.error_before or 0 for block in trained) if trained else None,
                    "error after": fmean(block.error_after or 0 for block in trained) if trained else None,
                    "epochs kept": " ".join(str(block.epochs) for block in trained),
                    "seconds to prune": report.seconds["prune"],
                }
            )
            print(rows[-1], flush=True)
    keep(
        "training",
        f"python -m benchmarks.training --calibration {short(arguments.calibration)} "
        f"--evaluation {short(arguments.evaluation)} --samples {arguments.samples} --windows {arguments.windows} "
        f"--pattern {arguments.pattern} --blocks {arguments.blocks}",
        rows,
        f"The first {arguments.blocks} blocks pruned, all others dense.",
    )


if __name__ == "__main__":
    main()
