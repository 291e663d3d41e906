"""The dense and the pruned model compared on held-out tokens, one decoder block in memory at a time.

Shapes: tokens (windows, L) int64; hidden states are batches (b, L, H) in the model's dtype, logits (b, L, V).
Scores are one number a window, (windows,) float64: the mean over the L - 1 tokens that the window predicts.
Log-probabilities are float32. No more logits are alive than those of one batch, and
where two models are compared of that batch from both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from eggs_core.errors import BrokenCheckpoint
from eggs_core.skeleton import Skeleton
from eggs_core.stream import BlockCall, BlockStream

# Tokens whose float32 log-probabilities, over the whole vocabulary, are in memory at once.
_HEAD_TOKENS = 256
_LARGEST_EXPONENT = 700.0
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_BOOTSTRAP_SEED = 0

OnBlock = Callable[[int], None] | None
"""Called after each decoder block with its index; it may raise to stop."""


@dataclass(frozen=True, slots=True)
class DenseScores:
    """What the dense model makes of the tokens, and all that the pruned one will be compared with."""

    nll: Tensor
    """Negative log-likelihood of the windows, (windows,)."""
    hidden: list[Tensor]
    """What leaves the last decoder block, (windows, L, H) in batches, on the CPU."""


@dataclass(frozen=True, slots=True)
class PrunedScores:
    """What the pruned model makes of the same tokens, each (windows,)."""

    nll: Tensor
    kl: Tensor
    """KL(dense || pruned) in nats."""
    agreement: Tensor
    """Share of tokens with the same likeliest next token."""


@torch.no_grad()
def perplexity(skeleton: Skeleton, tokens: Tensor, on_block: OnBlock = None) -> tuple[float, int]:
    """exp of the mean negative log-likelihood of every token of every window but the first of each.

    Returns the perplexity, cut off at e**700, and the number of tokens predicted. Raises `BrokenCheckpoint`
    where the model's logits are not finite.
    """
    return exp_mean(window_nll(skeleton, tokens, on_block)), tokens.shape[0] * (tokens.shape[1] - 1)


@torch.no_grad()
def window_nll(skeleton: Skeleton, tokens: Tensor, on_block: OnBlock = None) -> Tensor:
    """Negative log-likelihood of each window, (windows,). Raises as `perplexity` does."""
    return _nll(*_through_blocks(skeleton, tokens, on_block))


@torch.no_grad()
def dense_scores(skeleton: Skeleton, tokens: Tensor, on_block: OnBlock = None) -> DenseScores:
    """The dense model's scores. Raises as `perplexity` does."""
    stream, hidden = _through_blocks(skeleton, tokens, on_block)
    return DenseScores(_nll(stream, hidden), [states.cpu() for states in hidden])


@torch.no_grad()
def pruned_scores(
    skeleton: Skeleton, tokens: Tensor, dense: DenseScores, on_block: OnBlock = None
) -> PrunedScores:
    """The pruned model's scores, compared with `dense` on the same tokens. Raises as `perplexity` does.

    Pruning leaves what lies outside the blocks as it was, so one output head gives both models' logits.
    """
    stream, hidden = _through_blocks(skeleton, tokens, on_block)
    scores: list[Tensor] = []
    for i, batch in enumerate(stream.batches):
        of_dense, of_pruned = (stream.logits(i, h.to(batch.device)) for h in (dense.hidden[i], hidden[i]))
        for window, p, q in zip(batch, of_dense, of_pruned, strict=True):
            chunks = zip(*(part.split(_HEAD_TOKENS) for part in (p[:-1], q[:-1], window[1:])), strict=True)
            scores.append(torch.cat([_compare(*chunk) for chunk in chunks]).mean(0))
    return PrunedScores(*_finite(scores).unbind(1))


def exp_mean(nll: Tensor) -> float:
    """The perplexity of windows, or for differences of two models' scores the ratio; cut off at e**700."""
    return _exp(float(nll.mean()))


def exp_mean_interval(nll: Tensor) -> tuple[float, float] | None:
    """95% bootstrap interval of `exp_mean` over windows, as `mean_interval` has that of the mean."""
    bounds = mean_interval(nll)
    return None if bounds is None else (_exp(bounds[0]), _exp(bounds[1]))


def mean_interval(scores: Tensor) -> tuple[float, float] | None:
    """95% bootstrap interval of the mean of windows' `scores`, (windows,); None for a single one.

    The percentile interval of Efron (1979), whose seed is fixed: equal scores give equal bounds, and the
    differences of two models are paired. Few windows make it too narrow, by about sqrt(1 - 1/windows).
    """
    if len(scores) < 2:
        return None
    generator = torch.Generator().manual_seed(_BOOTSTRAP_SEED)
    draws = (torch.randint(len(scores), (len(scores),), generator=generator) for _ in range(_RESAMPLES))
    means = torch.stack([scores[draw].mean() for draw in draws])
    tail = (1 - _CONFIDENCE) / 2
    low, high = means.quantile(torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return low, high


def _through_blocks(skeleton: Skeleton, tokens: Tensor, on_block: OnBlock) -> tuple[BlockStream, list[Tensor]]:
    """The stream, and the hidden states that leave the last block."""
    stream = BlockStream(skeleton, tokens)
    hidden = stream.embed()

    def visit(index: int, block: nn.Module, call: BlockCall) -> None:
        for i, states in enumerate(hidden):
            hidden[i] = call(states, i)
        if on_block is not None:
            on_block(index)

    stream.run(visit)
    return stream, hidden


def _nll(stream: BlockStream, hidden: list[Tensor]) -> Tensor:
    nll: list[Tensor] = []
    for i, batch in enumerate(stream.batches):
        for window, logits in zip(batch, stream.logits(i, hidden[i]), strict=True):
            chunks = zip(logits[:-1].split(_HEAD_TOKENS), window[1:].split(_HEAD_TOKENS), strict=True)
            losses = [nn.functional.cross_entropy(q.float(), t, reduction="none") for q, t in chunks]
            nll.append(torch.cat(losses).double().mean())
    return _finite(nll)


def _compare(dense: Tensor, pruned: Tensor, targets: Tensor) -> Tensor:
    """NLL, KL divergence and agreement of each token, (tokens, 3) float64; logits (tokens, V)."""
    log_p, log_q = dense.float().log_softmax(-1), pruned.float().log_softmax(-1)
    nll = nn.functional.nll_loss(log_q, targets, reduction="none")
    kl = nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    agreed = dense.argmax(-1) == pruned.argmax(-1)
    return torch.stack([nll.double(), kl.double(), agreed.double()], dim=1)


def _finite(scores: list[Tensor]) -> Tensor:
    stacked = torch.stack(scores).cpu()
    if not bool(stacked.isfinite().all()):
        raise BrokenCheckpoint(
            "The model gives logits that are not finite on the evaluation text. Check its weights; where they are "
            "float16, the same weights in bfloat16 may do."
        )
    return stacked


def _exp(value: float) -> float:
    """e**value, or e**700, near the end of what a float holds, where it would be more."""
    return math.exp(min(value, _LARGEST_EXPONENT))
