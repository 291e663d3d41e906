"""Whether a packed model says what its dense form says: greedy tokens, and what their first difference is about.

    python -m benchmarks.agreement [--evaluation SOURCE] [--prompts 20] [--tokens 64] [--pattern 2:4]

SmolLM2-135M, pruned by RIA, in bfloat16. Prompts are the first 32 tokens of windows of the text. Where the two
differ for the first time, the dense model's logits of both choices are shown, and how far apart they are in units
of the last place of bfloat16: up to two, the choice is within the rounding of one product.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import eggs_core  # noqa: F401 - so that transformers can load packed models
from benchmarks.results import keep, short
from eggs_core.loading import quiet
from eggs_core.output import PACKED
from eggs_core.pipeline import prune
from eggs_core.spec import PruneSpec, TextSpec
from eggs_core.text import token_windows

MODEL = "smollm2-135m-instruct"
PROMPT_TOKENS = 32


@torch.no_grad()
def greedy(model: Any, prompt: Tensor, tokens: int) -> tuple[list[int], list[Tensor]]:
    """The tokens after a prompt (1, P), and the logits (V,) that each was chosen by."""
    chosen: list[int] = []
    logits: list[Tensor] = []
    output = model(input_ids=prompt, use_cache=True)
    while len(chosen) < tokens:
        logits.append(output.logits[0, -1].float())
        chosen.append(int(logits[-1].argmax()))
        following = torch.tensor([[chosen[-1]]])
        output = model(input_ids=following, past_key_values=output.past_key_values, use_cache=True)
    return chosen, logits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evaluation", default="pydocs")
    parser.add_argument("--prompts", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pattern", default="2:4")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out")
        spec = PruneSpec.model_validate(
            {"model": MODEL, "method": "ria", "pattern": arguments.pattern, "evaluation": None}
            | {"calibration": {"samples": 8}}
        )
        prune(spec, out, cache_dir=Path(scratch, "cache"))
        with quiet():
            dense, packed = (
                AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval() for folder in (out, out / PACKED)
            )
        text = TextSpec(source=arguments.evaluation, samples=arguments.prompts, sequence_length=2 * PROMPT_TOKENS)
        tokenizer = AutoTokenizer.from_pretrained(out)
        windows = token_windows(text, "evaluation", tokenizer, text_roots=None, cache_dir=Path(scratch, "cache"))
        rows = []
        for number, window in enumerate(windows):
            prompt = window[None, :PROMPT_TOKENS]
            a, logits = greedy(dense, prompt, arguments.tokens)
            b, _ = greedy(packed, prompt, arguments.tokens)
            first = next((i for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), None)
            row: dict[str, Any] = {"prompt": number, "same tokens": arguments.tokens if first is None else first}
            row |= dict.fromkeys(("dense logit of its choice", "of the packed one's", "apart by (last places)"))
            if first is not None:
                own, other = float(logits[first][a[first]]), float(logits[first][b[first]])
                last_place = torch.finfo(torch.bfloat16).eps * 2 ** torch.tensor(abs(own)).log2().floor()
                row |= {
                    "dense logit of its choice": own,
                    "of the packed one's": other,
                    "apart by (last places)": (own - other) / float(last_place),
                }
            rows.append(row)
            print(row, flush=True)
    same = sum(row["same tokens"] == arguments.tokens for row in rows)
    keep(
        "agreement",
        f"python -m benchmarks.agreement --evaluation {short(arguments.evaluation)} --prompts {arguments.prompts} "
        f"--tokens {arguments.tokens} --pattern {arguments.pattern}",
        rows,
        f"{same} of {len(rows)} prompts have the same {arguments.tokens} tokens.",
    )


if __name__ == "__main__":
    main()
