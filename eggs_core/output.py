"""The forms in which a pruned model is left, and what they weigh."""

import shutil
from dataclasses import dataclass
from typing import Any

from eggs_core.checkpoint import Checkpoint
from eggs_core.model_folder import INDEX, WEIGHTS
from eggs_core.packed_checkpoint import pack_checkpoint
from eggs_core.packed_model import bytes_held, bytes_in_memory
from eggs_core.packing_config import PackingConfig
from eggs_core.report import Speed
from eggs_core.skeleton import Skeleton
from eggs_core.spec import OutputFormat
from eggs_core.speed import compare_speed, lengths_for
from eggs_core.whole import whole_model

PACKED = "packed"
"""The folder of the packed checkpoint, where the dense one lies beside it."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """In bytes, as `eggs_core.report.Bytes` has them."""

    pruned_checkpoint: int
    packed_checkpoint: int | None = None
    pruned_in_memory: int | None = None
    packed_in_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Packed:
    """What is to be told of a packed model."""

    sizes: Sizes
    speed: list[Speed]


def pack_output(
    pruned: Checkpoint,
    packing: PackingConfig,
    form: OutputFormat,
    like: Skeleton,
    tokenizer: Any,
    with_speed: bool,
) -> Packed:
    """Packs the checkpoint `pruned`, of the model `like`, into a folder in its own, loads both to time them if
    asked to, and leaves what `form` asks for. Raises `BrokenPack`."""
    folder = pruned.folder
    packed = pack_checkpoint(pruned, folder / PACKED, packing)
    speed: list[Speed] = []
    if with_speed:
        with (
            whole_model(pruned, like, tokenizer) as dense_model,
            whole_model(packed, like, tokenizer) as packed_model,
        ):
            prompt_tokens, new_tokens = lengths_for(like.config)
            speed = compare_speed(dense_model, packed_model, prompt_tokens=prompt_tokens, new_tokens=new_tokens)
    in_memory = bytes_held(like.model), bytes_in_memory(like.model, packing, like.device)
    sizes = Sizes(pruned.nbytes(), packed.nbytes(), *in_memory)
    if form is OutputFormat.PACKED:
        for file in [*folder.glob(WEIGHTS), folder / INDEX]:
            file.unlink(missing_ok=True)
        for file in packed.folder.iterdir():
            shutil.move(file, folder / file.name)
        packed.folder.rmdir()
    return Packed(sizes, speed)
