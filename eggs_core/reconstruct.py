"""Trains the kept weights of a pruned block until it gives the dense model's outputs.

After Zimmer et al., "A free lunch in LLM compression" (arXiv 2510.14444): a gradient descent that needs one block
in memory. The block reads what the pruned blocks before it make of the calibration text, and is to give what the
dense block gives in the dense model, so that it also makes good errors that came before it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from eggs_core.distributed import ALONE, Group
from eggs_core.report import BlockTraining
from eggs_core.solve import PrunedLayer

EPOCHS = 8
LEARNING_RATE = 1e-3
HELD_OUT = 8
"""One batch of so many takes no part in training, and decides which epoch's weights are kept."""
MIN_BATCHES = 16
"""Into which the text should be cut where it has as many windows: each batch is a step of the descent."""
TRAINING_SHARE = 21
"""What it takes at most in bytes of memory for each weight; see `reconstruct`."""


def reconstruct(
    pruned: Sequence[PrunedLayer],
    block: int,
    call: Callable[[Tensor, int], Tensor],
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    group: Group = ALONE,
) -> BlockTraining:
    """Trains the kept weights of the `pruned` layers of block number `block`, in place; the masks stay.

    `call` runs the block on the hidden states (b, L, H) of a batch, with its number; `inputs` and `targets` are
    those of all. A last part of them is held out: the weights of the epoch with the lowest error on it are kept.
    Nothing is trained where there is but one batch, so that nothing can be held out, or no layer.

    Of several processes each has batches of its own, and every step takes one of each.

    Takes at most `TRAINING_SHARE` bytes for each weight of the parameters that hold the layers, and what automatic
    differentiation keeps of a batch.
    """
    training = len(inputs) - max(1, len(inputs) // HELD_OUT)
    steps = min(group.gather(training))  # in an epoch; a process with a batch more leaves out any one
    if steps == 0 or not pruned:
        reason: Literal["nothing-pruned", "too-few-batches"] = "too-few-batches" if pruned else "nothing-pruned"
        return BlockTraining(block=block, error_before=None, error_after=None, epochs=0, skipped=reason)
    weights = _Weights(pruned)

    def error(batch: int) -> Tensor:
        return _relative_error(call(inputs[batch], batch), targets[batch])

    def held_out_error() -> Tensor:
        with torch.no_grad():
            errors = torch.stack([error(batch) for batch in range(training, len(inputs))]).double()
        sums = group.sum(torch.stack([errors.sum(), torch.ones_like(errors).sum()]))
        return sums[0] / sums[1]

    generator = torch.Generator().manual_seed(0)
    # The other forms of it hold temporaries as large as the weights, and take six times as long.
    optimizer = torch.optim.Adam(weights.masters, lr=LEARNING_RATE, betas=(0.9, 0.95), fused=True)
    # In float16 most gradients of a mean over so many outputs would be 0.
    scaler = torch.amp.GradScaler(inputs[0].device.type, enabled=inputs[0].dtype is torch.float16)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * steps)
    # Which epoch is the best is not for the host to know before the end: it would wait for a GPU.
    before = best = held_out_error()
    kept = weights.snapshot()
    epochs = torch.zeros_like(best)
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(training, generator=generator)[:steps].tolist():
            with torch.enable_grad(), weights.trainable():
                scaler.scale(error(batch)).backward()
            weights.take_gradients(group)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()  # or these gradients would lie beside those of the next batch
            schedule.step()
            weights.show()
        after = held_out_error()
        better = after < best
        weights.update(kept, better)
        best, epochs = torch.where(better, after, best), torch.where(better, epoch, epochs)
    weights.restore(kept)
    error_before, error_after, kept_epoch = torch.stack([before, best, epochs]).tolist()
    return BlockTraining(
        block=block,
        error_before=_known(error_before),
        error_after=_known(error_after),
        epochs=int(kept_epoch),
        skipped=None,
    )


class _Weights:
    """The parameters that hold the pruned layers, with float32 masters that the optimiser moves."""

    def __init__(self, pruned: Sequence[PrunedLayer]) -> None:
        holders = {entry.layer.full_parameter_name: entry.layer for entry in pruned}
        self._parameters = [layer.parameter for layer in holders.values()]
        dropped = {name: torch.zeros_like(layer.parameter, dtype=torch.bool) for name, layer in holders.items()}
        for entry in pruned:
            entry.layer.view(dropped[entry.layer.full_parameter_name]).copy_(~entry.mask)
        self._dropped = list(dropped.values())
        self.masters = [parameter.detach().float().clone() for parameter in self._parameters]

    @contextmanager
    def trainable(self) -> Iterator[None]:
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        yield
        for parameter in self._parameters:
            parameter.requires_grad_(False)

    def take_gradients(self, group: Group) -> None:
        """Moves the gradients, in the mean of all processes, to the masters, those of dropped weights as 0."""
        for parameter, dropped, master in zip(self._parameters, self._dropped, self.masters, strict=True):
            assert parameter.grad is not None
            # Not times a mask, which would be copied in float32 first.
            master.grad = group.sum(parameter.grad.float().masked_fill_(dropped, 0)).div_(group.size)
            parameter.grad = None

    def show(self) -> None:
        """Brings the masters to the block, in its dtype."""
        for parameter, master in zip(self._parameters, self.masters, strict=True):
            parameter.data.copy_(master)

    def snapshot(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self._parameters]

    def update(self, snapshot: Sequence[Tensor], wanted: Tensor) -> None:
        """Makes an earlier snapshot that of now, where that is `wanted`, (), bool."""
        for parameter, values in zip(self._parameters, snapshot, strict=True):
            torch.where(wanted, parameter, values, out=values)

    def restore(self, snapshot: Sequence[Tensor]) -> None:
        for parameter, values in zip(self._parameters, snapshot, strict=True):
            parameter.data.copy_(values)


def _known(error: float) -> float | None:
    return error if isfinite(error) else None


def _relative_error(output: Tensor, target: Tensor) -> Tensor:
    """Mean over tokens of ||output - target||² / ||target||², in float32: norms differ by tokens, and later layers
    see them normalised."""
    exact = target.float()
    squares = (output.float() - exact).square().sum(dim=-1)
    return (squares / exact.square().sum(dim=-1)).mean()
