"""Time to prune, against the two forward passes over the same tokens that any sequential method needs.

    python -m benchmarks.speed [--text FILE] [--samples 32] [--length 1024] [--rounds 3]

Both stream the blocks of SmolLM2-135M from disk. The passes do nothing else; pruning gathers statistics, ranks,
masks, measures every layer and writes the shards. Each round does both, one after the other.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer

from benchmarks.results import keep
from eggs_core.checkpoint import Checkpoint, CheckpointWriter
from eggs_core.gguf import converted_folder
from eggs_core.prune import plan, prune_blocks
from eggs_core.skeleton import Skeleton
from eggs_core.sources import resolve_model
from eggs_core.spec import CalibrationSpec, PruneSpec
from eggs_core.stream import BlockCall, BlockStream
from eggs_core.text import token_windows

MODEL = "smollm2-135m-instruct"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
def two_passes(folder: Path, tokens: Tensor) -> float:
    """Seconds for every batch twice through every block."""
    started = time.perf_counter()
    stream = BlockStream(Skeleton(Checkpoint(folder), DEVICE), tokens)
    hidden = stream.embed()

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        for states in hidden:
            call(states)
        for i, states in enumerate(hidden):
            hidden[i] = call(states)

    stream.run(visit)
    return time.perf_counter() - started


def pruning(folder: Path, spec: PruneSpec, tokens: Tensor) -> float:
    """Seconds to prune and write every block."""
    with tempfile.TemporaryDirectory() as out:
        started = time.perf_counter()
        skeleton = Skeleton(Checkpoint(folder), DEVICE)
        writer = CheckpointWriter(Path(out), len(skeleton.blocks) + 1)
        prune_blocks(skeleton, spec, plan(skeleton, spec), tokens, writer, lambda index, reports: None)
        writer.finish()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="pydocs", help="calibration source")
    parser.add_argument("--samples", type=int, default=32)
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
        spec = PruneSpec(model=MODEL, calibration=calibration)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = token_windows(calibration, "calibration", tokenizer, text_roots=None, cache_dir=Path(cache))
        rows = []
        for number in range(1, arguments.rounds + 1):
            passes, prune = two_passes(folder, tokens), pruning(folder, spec, tokens)
            rows.append({"round": number, "two passes s": passes, "pruning s": prune, "ratio": prune / passes})
    ratio = statistics.median(row["ratio"] for row in rows)
    keep(
        "speed",
        f"python -m benchmarks.speed --text {Path(arguments.text).name} --samples {arguments.samples} "
        f"--length {arguments.length} --rounds {arguments.rounds}",
        rows,
        f"Pruning takes {ratio:.2f} times the two forward passes (median).",
    )


if __name__ == "__main__":
    main()
