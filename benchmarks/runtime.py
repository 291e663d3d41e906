"""A whole model dense against packed: tokens per second, time to take in a prompt, and peak memory.

    python -m benchmarks.runtime [--blocks 20] [--hidden 2048] [--inner 5632] [--pattern 2:4] [--batches 1 4 16]
        [--rounds 5]

A randomly initialised Llama in bfloat16, by default of 1.1 billion parameters, pruned by magnitude: 64 tokens
decoded greedily after a prompt of 128, by transformers, in one process in which the two forms take turns. Peak
memory is that of a process of its own that loads one form and generates as much, `benchmarks.peak`, in an
environment as a worker has it: transformers and torch load more where more is installed.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.environment import ROOT, python_of_a_worker
from benchmarks.random_llama import save_model
from benchmarks.results import keep, of_processor
from eggs_core.checkpoint import Checkpoint
from eggs_core.output import PACKED
from eggs_core.pipeline import prune
from eggs_core.spec import PruneSpec
from eggs_core.speed import NEW_TOKENS, PROMPT_TOKENS, compare_speed
from eggs_core.whole import load

HEAD, VOCABULARY = 64, 32000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=5632)
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model, out = Path(scratch, "model"), Path(scratch, "out")
        save_model(
            model,
            blocks=arguments.blocks,
            hidden=arguments.hidden,
            inner=arguments.inner,
            head=HEAD,
            length=PROMPT_TOKENS + NEW_TOKENS,
            vocabulary=VOCABULARY,
        )
        spec = PruneSpec.model_validate(
            {"model": str(model), "pattern": arguments.pattern, "method": "magnitude", "evaluation": None}
            | {"calibration": {"samples": 1, "sequence_length": 64}}
        )
        report = prune(spec, out, cache_dir=Path(scratch, "cache"))
        folders = {"dense": out, "packed": out / PACKED}
        peaks = {
            form: json.loads(
                subprocess.run(
                    [python_of_a_worker(), "-m", "benchmarks.peak", str(folder)],
                    cwd=ROOT,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for form, folder in folders.items()
        }
        added = {form: of["peak"] - of["before"] for form, of in peaks.items()}
        (dense, _), (packed, _) = load(folders["dense"]), load(folders["packed"])
        speeds = compare_speed(dense, packed, arguments.batches, rounds=arguments.rounds)
        sizes = {form: Checkpoint(folder).nbytes() for form, folder in folders.items()}
    rows = [
        {
            "batch": speed.batch,
            "dense tokens/s": speed.dense.tokens_per_second,
            "packed tokens/s": speed.packed.tokens_per_second,
            "packed / dense": speed.ratio,
            "dense prefill s": speed.dense.prefill_seconds,
            "packed prefill s": speed.packed.prefill_seconds,
            "prefill, dense / packed": speed.dense.prefill_seconds / speed.packed.prefill_seconds,
        }
        for speed in speeds
    ]
    keep(
        of_processor("runtime"),
        f"python -m benchmarks.runtime --blocks {arguments.blocks} --hidden {arguments.hidden} "
        f"--inner {arguments.inner} --pattern {arguments.pattern} "
        f"--batches {' '.join(map(str, arguments.batches))} --rounds {arguments.rounds}",
        rows,
        f"{report.model.parameters / 1e9:.2f} billion parameters. "
        f"On disk {sizes['packed'] / sizes['dense']:.3f} of the dense {sizes['dense'] / 2**20:.0f} MiB. "
        "Peak resident memory, with a worker's libraries alone, "
        f"{peaks['packed']['peak'] / peaks['dense']['peak']:.3f} of {peaks['dense']['peak'] / 2**20:.0f} MiB; "
        f"{added['packed'] / added['dense']:.3f} of {added['dense'] / 2**20:.0f} MiB "
        f"without the {peaks['dense']['before'] / 2**20:.0f} MiB "
        "that Python, torch and transformers take before there is a model.",
    )


if __name__ == "__main__":
    main()
