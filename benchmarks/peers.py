"""llm-compressor's Wanda and SparseGPT, from the package index, as rows of our tables.

    python -m benchmarks.peers [--calibration SOURCE] [--evaluation SOURCE ...] [--samples 24] [--windows 32]
        [--length 1024] [--pattern 2:4] [--seeds 0 ...] [--resume]

The library is installed into an environment of its own, and given the very windows that our
methods get. Its time begins with the model and the windows in memory and ends with the pruned model in memory.
"""

import json
import os
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy
import torch

from benchmarks.comparison import Figures, Prune, Task, compare
from benchmarks.environment import ROOT, TORCH, python_with
from eggs_core.checkpoint import Checkpoint
from eggs_core.expansion import expansion_figures
from eggs_core.pattern import NMPattern
from eggs_core.prune import plan
from eggs_core.skeleton import Skeleton
from eggs_core.spec import PruneSpec

LIBRARIES = ("llmcompressor==0.14.0.1", "transformers==5.17.0")


def prune_with_peer(modifier: str, task: Task, out: Path) -> Figures:
    """Prunes with llm-compressor's `modifier` ("wanda" or "sparsegpt") and checks what it left."""
    with tempfile.TemporaryDirectory() as scratch:
        tokens, figures = Path(scratch, "tokens.npy"), Path(scratch, "figures.json")
        numpy.save(tokens, task.tokens.numpy())
        options = {
            "--model": task.model,
            "--tokens": tokens,
            "--modifier": modifier,
            "--keep": task.pattern.n,
            "--group": task.pattern.m,
            "--threads": torch.get_num_threads(),
            "--out": out,
            "--figures": figures,
        }
        words = [str(word) for option in options.items() for word in option]
        run = subprocess.run(
            [python_with("llm-compressor", LIBRARIES), "-m", "benchmarks.peer_llmcompressor", *words],
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        if run.returncode:
            raise RuntimeError(f"llm-compressor failed:\n{run.stderr[-4000:]}")
        taken = json.loads(figures.read_text())
    fewest = _fewest_edges(task.model, out, task.pattern)
    return Figures(0, fewest, seconds=taken["seconds"], peak_resident=taken["peak_resident"])


PEERS: dict[str, Prune] = {
    f"llm-compressor {modifier}": partial(prune_with_peer, modifier) for modifier in ("wanda", "sparsegpt")
}
NOTE = f"llm-compressor runs with {TORCH} and {', '.join(LIBRARIES)}; its edges are its weights that are not zero."


def _fewest_edges(dense: Path, pruned: Path, pattern: NMPattern) -> int:
    """Fewest weights of any input channel. Checks that what we prune is N:M, and all else as it was."""
    skeleton = Skeleton(Checkpoint(dense), torch.device("cpu"))
    layers = plan(skeleton, PruneSpec(model=str(dense), pattern=pattern, method="ria"))
    names = {layer.full_parameter_name for block in layers for layer in block}
    before, after = skeleton.checkpoint, Checkpoint(pruned)
    assert before.file_of.keys() == after.file_of.keys()
    fewest = []
    for name in before.file_of:
        W = after.read([name])[name]
        if name in names:
            mask = W != 0
            assert int(mask.view(-1, pattern.m).sum(dim=1).max()) <= pattern.n, f"{name} is not {pattern}"
            fewest.append(expansion_figures(mask).min_input_degree)
        else:
            assert torch.equal(W, before.read([name])[name]), f"{name} has changed"
    return min(fewest)


if __name__ == "__main__":
    compare("peers", PEERS, __doc__, NOTE)
