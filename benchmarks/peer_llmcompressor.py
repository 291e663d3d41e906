"""Prunes with llm-compressor. Runs in an environment of its own, started by `benchmarks.peers`.

The figures go into a file, since the library writes to the standard streams as it likes.
"""

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.process import peak_resident

MODIFIERS = {"wanda": WandaPruningModifier, "sparsegpt": SparseGPTModifier}


def windows_seen(model: nn.Module) -> list[Tensor]:
    """A list that fills with the token ids that the model embeds."""
    seen: list[Tensor] = []

    def embedding(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0].clone())

    model.get_input_embeddings().register_forward_pre_hook(embedding)  # type: ignore[operator]
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the dense checkpoint")
    parser.add_argument("--tokens", type=Path, required=True, help="windows of token ids, (windows, L), as .npy")
    parser.add_argument("--modifier", choices=MODIFIERS, required=True)
    parser.add_argument("--keep", type=int, required=True, help="N of the pattern N:M: weights kept in a group")
    parser.add_argument("--group", type=int, required=True, help="M of the pattern N:M")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pruned checkpoint")
    parser.add_argument("--figures", type=Path, required=True, help="file for the figures, JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    tokens = torch.from_numpy(numpy.load(arguments.tokens))
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    seen = windows_seen(model)
    # llm-compressor writes a pattern with the zeros first, and matches names with a dot behind them.
    modifier = MODIFIERS[arguments.modifier](
        sparsity=1 - arguments.keep / arguments.group,
        mask_structure=f"{arguments.group - arguments.keep}:{arguments.group}",
        targets=["Linear"],
        ignore=["re:.*lm_head"],
    )
    started = time.perf_counter()
    oneshot(
        model=model,
        processor=tokenizer,
        # A loader of our own: given a dataset, the library draws and sorts its samples.
        dataset=DataLoader([{"input_ids": window} for window in tokens], batch_size=1),  # type: ignore[arg-type]
        recipe=[modifier],
        pipeline="sequential",
    )
    seconds = time.perf_counter() - started
    peak = peak_resident()
    # Every window once to calibrate and once to go on, in order and whole; before them one to trace the model.
    assert torch.equal(torch.cat(seen[-2 * len(tokens) :]), torch.cat([tokens, tokens]))

    model.save_pretrained(arguments.out, save_compressed=False)
    tokenizer.save_pretrained(arguments.out)
    figures = {
        "seconds": seconds,
        "peak_resident": peak,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("llmcompressor", "torch", "transformers")},
    }
    arguments.figures.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
