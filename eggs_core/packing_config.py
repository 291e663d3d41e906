"""What config.json says of a packed checkpoint, under `quantization_config`: docs/packed-format.md."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from eggs_core.errors import BrokenPack
from eggs_core.pattern import NMPattern

METHOD = "eggs"
VERSION: Literal[1] = 1
WEIGHT, VALUES, MASK = ".weight", ".weight_values", ".weight_mask"
"""How names of tensors end: a dense layer's, and in its place the two of a packed one."""

Kind = Literal["linear", "conv1d"]
"""A layer whose weight is stored as (C_out, C_in), or the other way round when it is dense, as in GPT-2."""


class PackingConfig(BaseModel):
    """`layers` are the names of packed layers, as the checkpoint has them without `.weight`, and their kinds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    quant_method: Literal["eggs"] = "eggs"
    version: Literal[1] = VERSION
    pattern: NMPattern
    layers: dict[str, Kind]

    @classmethod
    def read(cls, entries: Mapping[str, Any]) -> "PackingConfig":
        """Raises `BrokenPack` for entries that are not this version's."""
        version = entries.get("version")
        if version != VERSION:
            raise BrokenPack(
                f"The checkpoint is packed in version {version!r} of the form, and this eggs reads {VERSION}. "
                "Install a later eggs, or unpack it with the one that packed it."
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
