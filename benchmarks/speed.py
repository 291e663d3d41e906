"""Time to prune, against the two forward passes over the same tokens that any sequential method needs.

    python -m benchmarks.speed [--text FILE] [--samples 24] [--length 1024] [--rounds 3]

All stream the blocks of SmolLM2-135M from disk. The passes do nothing else; pruning gathers statistics, ranks,
masks, measures every layer and writes the shards. Each round does all, one after the other.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from benchmarks.quality import CONFIGURATIONS
from benchmarks.results import keep, short
from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.gguf import converted_folder
from eggs_core.prune import plan, prune_blocks
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model
from eggs_core.spec import CalibrationSpec, PruneSpec
from eggs_core.stream import BlockCall, BlockStream
from eggs_core.text import token_windows

MODEL = "smollm2-135m-instruct"
PASSES = "two passes"
METHODS = ("ria", "eggs fast", "eggs balanced")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def two_passes(folder: Path, tokens: Tensor) -> float:
    """Seconds for every batch twice through every block."""
    started = time.perf_counter()
    stream = BlockStream(Skeleton(Checkpoint(folder), DEVICE), tokens)
    hidden = stream.embed()

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        for i, states in enumerate(hidden):
            call(states, i)
        for i, states in enumerate(hidden):
            hidden[i] = call(states, i)

    stream.run(visit)
    return time.perf_counter() - started


def pruning(folder: Path, spec: PruneSpec, tokens: Tensor) -> float:
    """Seconds to prune and write every block."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        skeleton = Skeleton(Checkpoint(folder), DEVICE)
        writer = CheckpointWriter(Path(out), len(skeleton.blocks) + 1)
        prune_blocks(skeleton, spec, plan(skeleton, spec), tokens, writer, lambda *_: None)
        writer.finish()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="pydocs", help="calibration source")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as cache:
        model = resolve_model(MODEL, None)
        assert model.path is not None
        folder = converted_folder(model.path, Path(cache))
        calibration = CalibrationSpec(
            source=arguments.text, samples=arguments.samples, sequence_length=arguments.length
        )
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = token_windows(calibration, "calibration", tokenizer, text_roots=None, cache_dir=Path(cache))
        works: dict[str, Callable[[], float]] = {PASSES: partial(two_passes, folder, tokens)}
        for method in METHODS:
            spec = PruneSpec(model=MODEL, calibration=calibration, **CONFIGURATIONS[method])
            works[method] = partial(pruning, folder, spec, tokens)
        rows = [
            {"round": number} | {f"{name} s": work() for name, work in works.items()}
            for number in range(1, arguments.rounds + 1)
        ]
    median = {name: statistics.median(row[f"{name} s"] for row in rows) for name in works}
    keep(
        "speed",
        f"python -m benchmarks.speed --text {short(arguments.text)} --samples {arguments.samples} "
        f"--length {arguments.length} --rounds {arguments.rounds}",
        rows,
        "Medians, in multiples of the two passes: "
        + ", ".join(f"{method} {median[method] / median[PASSES]:.2f}" for method in METHODS)
        + f". eggs fast takes {median['eggs fast'] / median['ria']:.2f} times as long as ria.",
    )


if __name__ == "__main__":
    main()
