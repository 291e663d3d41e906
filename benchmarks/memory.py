"""Peak memory of a run against the number of decoder blocks of the model: it must not grow with them.

    python -m benchmarks.memory [--hidden 1024] [--blocks 8 16 32 64]

Each depth is pruned in a process of its own, from a randomly initialised Llama saved in shards by block.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.random_llama import save_model
from benchmarks.results import keep

SAMPLES, LENGTH = 8, 256


def prune(folder: Path, out: Path) -> None:
    """Prunes and prints the report's figures as JSON; runs in a process of its own."""
    from eggs_core.pipeline import prune as run
    from eggs_core.spec import CalibrationSpec, EvaluationSpec, PruneSpec

    text = {"samples": SAMPLES, "sequence_length": LENGTH}
    spec = PruneSpec(
        model=str(folder),
        calibration=CalibrationSpec(**text),
        evaluation=EvaluationSpec(**text, generations=0),  # they load the whole model
    )
    report = run(spec, out, cache_dir=out)
    print(json.dumps({"bytes": report.bytes.model_dump(), "seconds": report.seconds["total"]}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--blocks", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument("--prune", nargs=2, type=Path, metavar=("MODEL", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prune:
        prune(*arguments.prune)
        return
    rows = []
    for blocks in arguments.blocks:
        with tempfile.TemporaryDirectory() as scratch:
            model, out = Path(scratch, "model"), Path(scratch, "out")
            model.mkdir()
            hidden = arguments.hidden
            save_model(model, blocks=blocks, hidden=hidden, inner=4 * hidden, head=64, length=LENGTH)
            command = [sys.executable, "-m", "benchmarks.memory", "--prune", str(model), str(out)]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        rows.append(
            {
                "blocks": blocks,
                "checkpoint MiB": figures["bytes"]["dense_checkpoint"] / 2**20,
                "peak resident MiB": figures["bytes"]["peak_resident"] / 2**20,
                "peak GPU MiB": (figures["bytes"]["peak_device"] or 0) / 2**20,
                "seconds": figures["seconds"],
            }
        )
    growth = rows[-1]["peak resident MiB"] / rows[0]["peak resident MiB"]
    keep(
        "memory",
        f"python -m benchmarks.memory --hidden {arguments.hidden} --blocks {' '.join(map(str, arguments.blocks))}",
        rows,
        f"From {rows[0]['blocks']} to {rows[-1]['blocks']} blocks peak memory grows {growth:.3f} times.",
    )


if __name__ == "__main__":
    main()
