"""What config.json says of a packed checkpoint, under `quantization_config`: docs/packed-format.md."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eggs_core.errors import BrokenPack
from eggs_core.pattern import NMPattern

METHOD = "eggs"
VERSION: Literal[2] = 2
WEIGHT, VALUES, MASK = ".weight", ".weight_values", ".weight_mask"
"""How names of tensors end: a dense layer's, and in its place the two of a packed one."""

Kind = Literal["linear", "conv1d"]
"""A layer whose weight is stored as (C_out, C_in), or the other way round when it is dense, as in GPT-2."""


class PackingConfig(BaseModel):
    """`layers` are the names of packed layers, as the checkpoint has them without `.weight`, and their kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quant_method: Literal["eggs"] = "eggs"
    version: Literal[2] = VERSION
    pattern: NMPattern
    layers: dict[str, Kind]

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> "PackingConfig":
        """Raises `BrokenPack` for entries that are not this version's."""
        version = entries.get("version")
        if version != VERSION:
            raise BrokenPack(
                f"The checkpoint is packed in version {version!r} of the form, and this eggs reads {VERSION}. "
                "Unpack it with the eggs that packed it, or install a later one."
            )
        try:
            return cls.model_validate(dict(entries))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(("quantization_config", *map(str, first["loc"])))
            raise BrokenPack(f"{place} in config.json is not valid: {first['msg']}") from error

    def written(self) -> dict[str, Any]:
        """As config.json has it."""
        return self.model_dump(mode="json")


def in_parities(m: int) -> bool:
    """Whether the mask of a group of `m` is stored as running parities, a bit shorter."""
    return m in (2, 4, 8)


def mask_bits(columns: int, m: int) -> int:
    """Bits that a row's mask takes of a file, for so many input channels in groups of `m`."""
    return columns - columns // m if in_parities(m) else columns


def mask_bytes(columns: int, m: int) -> int:
    """Bytes that those bits take."""
    return -(-mask_bits(columns, m) // 8)
