"""Peak memory of a process that loads a Llama, packed or not, and generates: `python -m benchmarks.peak FOLDER`.

Prints bytes as JSON: `peak`, and `before`, what the process held with all of its libraries and no model.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from benchmarks.process import peak_resident
from eggs_core.speed import NEW_TOKENS, PROMPT_TOKENS
from eggs_core.whole import load


@torch.no_grad()
def main(folder: Path) -> None:
    before = peak_resident()
    prompt = torch.ones(1, PROMPT_TOKENS, dtype=torch.int64)
    model, _ = load(folder)
    if type(model).__name__ != LlamaForCausalLM.__name__:
        sys.exit("`before` counts the libraries of a Llama.")
    model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=NEW_TOKENS,
        max_new_tokens=NEW_TOKENS,
    )
    print(json.dumps({"before": before, "peak": peak_resident()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
