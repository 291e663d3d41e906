"""How fast a model generates, dense and packed, on the machine at hand."""

import statistics
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from eggs_core.construction import most_positions
from eggs_core.errors import SequenceTooLong
from eggs_core.packed_linear import PackedLinear
from eggs_core.report import LayerProducts, ModelSpeed, Speed

PROMPT_TOKENS = 128
NEW_TOKENS = 64
ROUNDS = 3
BATCHES = (1, 4, 16)


@torch.no_grad()
def compare_speed(
    dense: Any,
    packed: Any,
    batches: Sequence[int] = BATCHES,
    *,
    prompt_tokens: int = PROMPT_TOKENS,
    new_tokens: int = NEW_TOKENS,
    rounds: int = ROUNDS,
) -> list[Speed]:
    """Medians over `rounds`, in which the models take turns, of greedy decoding of `new_tokens` after a prompt.

    Both are causal language models of transformers on one device. Prompts are random tokens, as the content of a
    prompt does not matter to the time. Raises `SequenceTooLong` for more tokens than they take.
    """
    most = most_positions(dense.config)
    if most is not None and prompt_tokens + new_tokens > most:
        raise SequenceTooLong(
            f"A prompt of {prompt_tokens} tokens and {new_tokens} more are {prompt_tokens + new_tokens}, and this "
            f"model takes at most {most}. Ask for fewer."
        )
    vocabulary = dense.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    result: list[Speed] = []
    for batch in batches:
        prompts = torch.randint(vocabulary, (batch, prompt_tokens), generator=generator).to(dense.device)
        taken: dict[str, list[tuple[float, float]]] = {"dense": [], "packed": []}
        for model in (dense, packed):
            _generate(model, prompts, 2)  # what is done once, such as taking memory, is not timed
        for _ in range(rounds):
            for name, model in (("dense", dense), ("packed", packed)):
                taken[name].append(_generate(model, prompts, new_tokens))
        speeds = {
            name: ModelSpeed(
                prefill_seconds=statistics.median(prefill for prefill, _ in times),
                tokens_per_second=batch * new_tokens / statistics.median(decode for _, decode in times),
            )
            for name, times in taken.items()
        }
        ratio = speeds["packed"].tokens_per_second / speeds["dense"].tokens_per_second
        result.append(
            Speed(
                batch=batch,
                prompt_tokens=prompt_tokens,
                new_tokens=new_tokens,
                ratio=ratio,
                products=_products(packed, batch, batch * prompt_tokens),
                **speeds,
            )
        )
    return result


def lengths_for(config: Any) -> tuple[int, int]:
    """Tokens of a prompt and tokens to decode: `PROMPT_TOKENS` and `NEW_TOKENS`, or what a model of this config
    takes."""
    most = most_positions(config) or PROMPT_TOKENS + NEW_TOKENS
    new = min(NEW_TOKENS, most // 3)
    return min(PROMPT_TOKENS, most - new), new


def _products(model: nn.Module, decoded: int, taken_in: int) -> list[LayerProducts]:
    """How the packed layers of each shape multiply as many tokens at once."""
    found = Counter(
        ((layer.out_features, layer.in_features), layer.product(taken_in), layer.product(decoded))
        for layer in model.modules()
        if isinstance(layer, PackedLinear)
    )
    return [
        LayerProducts(shape=shape, layers=layers, prefill=prefill, decode=decode)
        for (shape, prefill, decode), layers in found.items()
    ]


def _generate(model: Any, prompts: torch.Tensor, new_tokens: int) -> tuple[float, float]:
    """Seconds to take in the prompts, and to decode `new_tokens` after the one that they give."""
    started = _now(model)
    output = model(input_ids=prompts, use_cache=True, logits_to_keep=1)
    token = output.logits[:, -1:].argmax(dim=-1)
    prefilled = _now(model)
    for _ in range(new_tokens):
        output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        token = output.logits[:, -1:].argmax(dim=-1)
    return prefilled - started, _now(model) - prefilled


def _now(model: Any) -> float:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
