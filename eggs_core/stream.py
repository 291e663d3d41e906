"""Runs a model block by block over many windows, with the weights of one block at a time.

The model's own forward drives: it is called once, with every decoder block's forward replaced by one that
takes *all* windows through that block before the model goes on to the next. So each block gets the very
arguments (masks, rotary tables, per-layer choices) that its model computes for it, for any architecture.

Shapes: tokens (windows, L) int64; hidden states are lists of batches (b, L, H).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eggs_core.errors import UnsupportedModel
from eggs_core.products import fast_products
from eggs_core.skeleton import Skeleton

# On a CPU larger batches only cost: their activations are taken from the system anew for every product
# (`eggs_core.memory`), which made a pass half as long again at 4096.
MAX_BATCH_TOKENS = {"cpu": 1024, "cuda": 4096}


class BlockCall:
    """One decoder block with the arguments its model gave it: maps hidden states (b, L, H) to (b, L, H)."""

    def __init__(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forward, self._args, self._kwargs = forward, args, kwargs
        self.output: Any = None
        """What the block last returned, as its model expects it: a tensor, or a tuple that begins with it."""

    def __call__(self, hidden: Tensor) -> Tensor:
        with fast_products(hidden.device):
            self.output = self._forward(hidden, *self._args, **self._kwargs)
        return _first(self.output)


Visit = Callable[[int, nn.Module, BlockCall], None]
"""Called with a block's index, the block with its weights loaded, and how to call it; calls it at least once."""


Form = tuple[type[tuple[Any, ...]] | type[list[Any]] | None, tuple[Any, ...]]
"""How a block returns its hidden states: alone (None), or first in a tuple or list, and with what after them but
tensors."""


class BlockStream:
    """All windows of one text through all blocks of one model. Loads what lies outside the blocks at once.

    The windows are taken in batches of one size, at least `batches` of them if there are as many windows.
    """

    def __init__(self, skeleton: Skeleton, tokens: Tensor, batches: int = 1) -> None:
        self._skeleton = skeleton
        windows, length = tokens.shape
        most = MAX_BATCH_TOKENS[skeleton.device.type]
        largest = max(1, min(most // length, windows // batches))
        size = max(d for d in range(1, largest + 1) if windows % d == 0)
        self.batches = [batch.to(skeleton.device) for batch in torch.split(tokens, size)]
        self._forms: list[Form] = []
        skeleton.load_outside()

    def embed(self) -> list[Tensor]:
        """The hidden states that enter the first block."""
        hidden: list[Tensor] = []
        first: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def capture(states: Tensor, *args: Any, **kwargs: Any) -> None:
            hidden.append(states)
            if not first:
                first.append((args, kwargs))
            elif not _same((args, kwargs), first[0]):
                raise UnsupportedModel(
                    "This model gives its decoder blocks inputs that differ from window to window besides the "
                    "hidden states, which block streaming does not carry."
                )
            raise _Stop

        for batch in self.batches:
            with _replaced_forward(self._skeleton.blocks[0], capture):
                self._drive(batch)
        return hidden

    def run(self, visit: Visit) -> None:
        """Visits every block in order, loaded."""
        blocks = self._skeleton.blocks
        self._forms = []
        last: list[Tensor] = []

        def forward_of(index: int) -> Callable[..., Any]:
            block = blocks[index]
            own_forward = block.forward

            def forward(states: Tensor, *args: Any, **kwargs: Any) -> Any:
                if last and states is not last.pop():
                    raise UnsupportedModel(
                        "This model changes the hidden states between its decoder blocks, which block streaming "
                        "does not carry."
                    )
                call = BlockCall(own_forward, args, kwargs)
                with self._skeleton.loaded(index):
                    visit(index, block, call)
                self._forms.append(_form(call.output))
                last.append(_first(call.output))
                if index == len(blocks) - 1:
                    raise _Stop
                return call.output

            return forward

        with _replaced_forwards(blocks, forward_of):
            self._drive(self.batches[0])

    def logits(self, batch: int, hidden: Tensor) -> Tensor:
        """Logits (b, L, V) from the hidden states that left the last block, by the model's own head."""
        blocks = self._skeleton.blocks

        def forward_of(index: int) -> Callable[..., Any]:
            kind, rest = self._forms[index]
            replayed = hidden if kind is None else kind((hidden, *rest))
            return lambda *args, **kwargs: replayed

        with _replaced_forwards(blocks, forward_of), fast_products(hidden.device):
            logits: Tensor = self._skeleton.model(input_ids=self.batches[batch], use_cache=False).logits
        return logits

    def _drive(self, batch: Tensor) -> None:
        try:
            self._skeleton.model(input_ids=batch, use_cache=False)
        except _Stop:
            return
        raise UnsupportedModel(f"{type(self._skeleton.model).__name__} did not call its decoder blocks.")


def _first(output: Any) -> Tensor:
    """The hidden states in what a block returns: a tensor, or a tuple or list that begins with it."""
    states: Tensor = output[0] if isinstance(output, tuple | list) else output
    return states


def _form(output: Any) -> "Form":
    if not isinstance(output, tuple | list):
        return None, ()
    # Attention of every head, in some models, which nobody has asked for and of all blocks would fill the memory.
    return type(output), tuple(None if isinstance(part, Tensor | tuple | list) else part for part in output[1:])


class _Stop(Exception):
    """Ends a forward of which no more is needed."""


@contextmanager
def _replaced_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    block.forward = forward
    try:
        yield
    finally:
        del block.forward  # the class's own shows again


@contextmanager
def _replaced_forwards(blocks: nn.ModuleList, forward_of: Callable[[int], Callable[..., Any]]) -> Iterator[None]:
    replaced: list[nn.Module] = []
    try:
        for index, block in enumerate(blocks):
            block.forward = forward_of(index)
            replaced.append(block)
        yield
    finally:
        for block in replaced:
            del block.forward


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True  # flags and caches: a model gives every window the same
