"""Seconds a block to prune a large model, by default one of the shape of a 7B Llama, with weights drawn at random.

    python -m benchmarks.large [--hidden 4096] [--inner 11008] [--head 128] [--blocks 32] [--samples 128]
        [--length 2048] [--methods METHOD ...]

From the moment a block is read to the moment its pruned shard is on disk, the passes over the calibration tokens
included. Tokens are drawn at random. Medians over the blocks but the first, which also pays for what is done once.
"""

import argparse
import shlex
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.process import peak_resident
from benchmarks.quality import CONFIGURATIONS
from benchmarks.random_llama import save_model
from benchmarks.results import keep
from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.prune import plan, prune_blocks
from eggs_core.report import BlockTraining, LayerReport
from eggs_core.skeleton import Skeleton
from eggs_core.spec import PruneSpec

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
VOCABULARY = 32000
METHODS = ("ria", "sparsegpt", "eggs fast", "eggs balanced")


def seconds_a_block(folder: Path, spec: PruneSpec, tokens: torch.Tensor) -> list[float]:
    """How long each block takes."""
    finished: list[float] = []

    def on_block(index: int, reports: list[LayerReport], training: BlockTraining | None) -> None:
        finished.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as out:
        skeleton = Skeleton(Checkpoint(folder), DEVICE)
        writer = CheckpointWriter(Path(out), len(skeleton.blocks) + 1)
        finished.append(time.perf_counter())
        prune_blocks(skeleton, spec, plan(skeleton, spec), tokens, writer, on_block)
    return [after - before for before, after in pairwise(finished)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--inner", type=int, default=11008)
    parser.add_argument("--head", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--methods", nargs="+", choices=CONFIGURATIONS, default=list(METHODS), metavar="METHOD")
    arguments = parser.parse_args()

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        save_model(
            Path(scratch),
            blocks=arguments.blocks,
            hidden=arguments.hidden,
            inner=arguments.inner,
            head=arguments.head,
            length=arguments.length,
            vocabulary=VOCABULARY,
        )
        shape = (arguments.samples, arguments.length)
        tokens = torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(0))
        for method in arguments.methods:
            if DEVICE.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            spec = PruneSpec(model=scratch, **CONFIGURATIONS[method])
            first, *others = seconds_a_block(Path(scratch), spec, tokens)
            rows.append(
                {
                    "method": method,
                    "blocks": arguments.blocks,
                    "first block s": first,
                    "median block s": statistics.median(others or [first]),
                    "all blocks s": first + sum(others),
                    "peak GPU GiB": torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None,
                    "peak resident GiB, so far": peak_resident() / 2**30,
                }
            )
            print(rows[-1], flush=True)
    keep(
        "large",
        f"python -m benchmarks.large --hidden {arguments.hidden} --inner {arguments.inner} "
        f"--head {arguments.head} --blocks {arguments.blocks} --samples {arguments.samples} "
        f"--length {arguments.length} --methods {shlex.join(arguments.methods)}",
        rows,
        f"Calibrated on {arguments.samples} windows of {arguments.length} tokens.",
    )


if __name__ == "__main__":
    main()
