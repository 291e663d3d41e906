"""Runs a model block by block over many windows, with the weights of one block at a time.

The model's own forward drives: it waits at every decoder block until *all* windows have been through that block.
So each block gets the very arguments (masks, rotary tables, per-layer choices) that its model computes for it, for
any architecture. One forward tells them for all windows, and a second whether that is so, but where they depend on
the window, as those of Gemma 3n do: there every batch has a forward of its own, all of which wait side by side.

Shapes: tokens (windows, L) int64; hidden states are lists of batches (b, L, H).
"""

from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any, NamedTuple

import torch
from greenlet import greenlet
from torch import Tensor, nn

from eggs_core.errors import UnsupportedModel
from eggs_core.products import fast_products
from eggs_core.skeleton import Skeleton

# On a CPU larger batches only cost: their activations are taken from the system anew for every product
# (`eggs_core.memory`), which made a pass half as long again at 4096.
MAX_BATCH_TOKENS = {"cpu": 1024, "cuda": 4096}


class _Waiting(NamedTuple):
    """What a model calls a block with, and its number."""

    block: int
    states: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


_Left = MutableMapping[Any, Any]
"""What blocks leave for later ones, such as keys and values, besides the hidden states."""


class BlockCall:
    """One decoder block with the arguments its model gave it: maps hidden states (b, L, H) to (b, L, H).

    `batch` is the number of the batch that the states are of. `dense` says that they are the dense model's, where
    pruned ones go through the same blocks: what blocks leave for later ones is then kept apart.
    """

    def __init__(
        self, forward: Callable[..., Any], waiting: Sequence[_Waiting], left: Mapping[int, _Left]
    ) -> None:
        self._forward, self._waiting, self._left = forward, waiting, left
        self.leaves = False
        """Whether the block has left keys and values for later ones."""
        self.outputs: list[Any] = [None] * len(waiting)
        """What the block last returned for each batch, or where their arguments are the same for the first and for
        any other, as the model expects it: a tensor, or a tuple that begins with it."""

    def __call__(self, hidden: Tensor, batch: int = 0, *, dense: bool = False) -> Tensor:
        number = min(batch, len(self._waiting) - 1)
        _, _, args, kwargs = self._waiting[number]
        if dense:
            args = tuple(self._left.get(id(value), value) for value in args)
            kwargs = {name: self._left.get(id(value), value) for name, value in kwargs.items()}
        left = [value for value in (*args, *kwargs.values()) if isinstance(value, MutableMapping)]
        before = [dict(value) for value in left]
        with fast_products(hidden.device):
            self.outputs[number] = self._forward(hidden, *args, **kwargs)
        self.leaves |= any(
            value is not old.get(name)
            for new, old in zip(left, before, strict=True)
            for name, value in new.items()
        )
        return _first(self.outputs[number])


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
        self._alike = True
        skeleton.load_outside()

    def embed(self) -> list[Tensor]:
        """The hidden states that enter the first block."""
        hidden: list[Tensor] = []
        first: _Waiting | None = None
        for batch in self.batches:
            with closing(self._calls(batch)) as calls:
                call = next(calls)
            hidden.append(call.states)
            first = first or call
            self._alike = self._alike and not _left(call) and _same(call[2:], first[2:])
        return hidden

    def run(self, visit: Visit) -> None:
        """Visits every block in order, loaded."""
        blocks = self._skeleton.blocks
        forwards = [block.forward for block in blocks]
        self._forms = []
        with ExitStack() as ending:
            # Of arguments that are alike at first a second forward shows whether they stay so.
            forwarding = [self._calls(batch) for batch in (self.batches[:2] if self._alike else self.batches)]
            for calls in forwarding:
                ending.enter_context(closing(calls))
            waiting = [next(calls) for calls in forwarding]
            left: dict[int, _Left] = {id(value): {} for call in waiting for value in _left(call)}
            if not left and getattr(self._skeleton.model.config.get_text_config(), "num_kv_shared_layers", False):
                raise UnsupportedModel(
                    "Blocks of this model share keys and values, which this version of transformers hands on in "
                    "its cache alone: that needs transformers 5.6 or later."
                )
            while True:
                index = waiting[0].block
                call = BlockCall(forwards[index], waiting, left)
                with self._skeleton.loaded(index):
                    visit(index, blocks[index], call)
                self._forms.append(_form(call.outputs[0]))
                if index == len(blocks) - 1:
                    return
                outputs = [call.outputs[0] if output is None else output for output in call.outputs]
                waiting = [calls.send(output) for calls, output in zip(forwarding, outputs, strict=True)]
                if self._alike and not all(_same(at[2:], waiting[0][2:]) for at in waiting):
                    raise UnsupportedModel(
                        "This model makes inputs of its decoder blocks of what blocks before them return, which "
                        "block streaming does not carry."
                    )
                given = zip(waiting, outputs, strict=True)
                if not all(_same_memory(at.states, _first(output)) for at, output in given):
                    raise UnsupportedModel(
                        "This model changes the hidden states between its decoder blocks, which block streaming "
                        "does not carry."
                    )

    def _calls(self, batch: Tensor) -> Generator[_Waiting, Any, None]:
        """What the model calls its blocks with, in turn. Goes on with what is sent as the block's output."""

        def forward_of(index: int) -> Callable[..., Any]:
            return lambda states, *args, **kwargs: drive.parent.switch(_Waiting(index, states, args, kwargs))

        drive = greenlet(self._drive)
        output: Any = batch
        try:
            while True:
                with _replaced_forwards(self._skeleton.blocks, forward_of):
                    waiting = drive.switch(output)
                output = yield waiting
        finally:
            if drive:
                drive.throw(_Stop)

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


def _left(first: _Waiting) -> list[_Left]:
    """Of the arguments of the first block, those that blocks may fill for later ones."""
    values = (*first.args, *first.kwargs.values())
    return [value for value in values if isinstance(value, MutableMapping) and not value]


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or (a.shape == b.shape and torch.equal(a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and isinstance(b, Sequence) and not isinstance(a, str):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return True  # flags and caches: a model gives every window the same
