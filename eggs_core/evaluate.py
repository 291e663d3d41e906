"""Perplexity of a causal language model, one decoder block in memory at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from eggs_core.errors import BrokenCheckpoint
from eggs_core.skeleton import Skeleton
from eggs_core.stream import BlockCall, BlockStream

_HEAD_TOKENS = 1024
_LARGEST_EXPONENT = 700.0


@torch.no_grad()
def perplexity(
    skeleton: Skeleton, tokens: Tensor, on_block: Callable[[int], None] | None = None
) -> tuple[float, int]:
    """exp of the mean negative log-likelihood of every token of every window but the first of each.

    tokens: (windows, L) int64. `on_block` is called after each decoder block with its index. Returns the
    perplexity and the number of tokens predicted. Log-probabilities in float32, their sum in float64.

    A perplexity beyond e**700, near the end of what a float holds, is given as e**700.
    Raises `BrokenCheckpoint` where the model's logits are not finite.
    """
    stream = BlockStream(skeleton, tokens)
    hidden = stream.embed()

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        for i, states in enumerate(hidden):
            hidden[i] = call(states)
        if on_block is not None:
            on_block(index)

    stream.run(visit)
    total = torch.zeros((), dtype=torch.float64)
    for i, batch in enumerate(stream.batches):
        logits = stream.logits(i, hidden[i])[:, :-1].flatten(0, 1)
        targets = batch[:, 1:].flatten()
        for chunk, target in zip(
            torch.split(logits, _HEAD_TOKENS), torch.split(targets, _HEAD_TOKENS), strict=True
        ):
            total += nn.functional.cross_entropy(chunk.float(), target, reduction="sum").double().cpu()
    predicted = tokens.shape[0] * (tokens.shape[1] - 1)
    mean = float(total) / predicted
    if not math.isfinite(mean):
        raise BrokenCheckpoint(
            "The model gives logits that are not finite on the evaluation text. Check its weights; where they are "
            "float16, the same weights in bfloat16 may do."
        )
    return math.exp(min(mean, _LARGEST_EXPONENT)), predicted
