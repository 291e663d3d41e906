"""The N:M sparsity pattern."""

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from eggs_core.errors import InvalidPattern, MinDegreeImpossible, PatternDoesNotFit

MAX_GROUP = 32


@dataclass(frozen=True, slots=True)
class NMPattern:
    """In every row, each group of `m` consecutive input channels keeps exactly `n` weights: "2:4" keeps 2 of 4.

    Raises `InvalidPattern` unless 0 < n ≤ m ≤ 32. As a pydantic field it is written as the string "n:m".
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n <= self.m <= MAX_GROUP:
            raise InvalidPattern(
                f"{self.n}:{self.m} is not an N:M pattern: it must keep at least 1 and at most M of every M "
                f"weights, with M at most {MAX_GROUP}. Write the number kept first: 2:4 keeps 2 of 4."
            )

    @classmethod
    def parse(cls, text: str) -> "NMPattern":
        """Reads "N:M". Raises `InvalidPattern` for anything else."""
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(\d{1,4})\s*", text, flags=re.ASCII)
        if match is None:
            raise InvalidPattern(f"{text!r} is not an N:M pattern. Write two numbers and a colon, such as 2:4.")
        return cls(int(match[1]), int(match[2]))

    @property
    def density(self) -> float:
        """Share of weights kept."""
        return self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    @classmethod
    def _validate(cls, value: Any) -> "NMPattern":
        if isinstance(value, NMPattern):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise InvalidPattern(f'{value!r} is not an N:M pattern. Write it as a string, such as "2:4".')

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.to_string_ser_schema()
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "type": "string",
            "pattern": r"^\d{1,2}:\d{1,2}$",
            "description": "N:M: of every M consecutive input channels, each row keeps exactly N weights.",
            "examples": ["2:4", "4:8"],
        }


def check_fit(shape: tuple[int, int], pattern: NMPattern, min_degree: int, layer: str) -> None:
    """Raises `PatternDoesNotFit` or `MinDegreeImpossible`, naming `layer`, where no such mask exists.

    C_out rows keep N edges in each group of M channels, so every channel can have B exactly when M·B ≤ N·C_out.
    """
    rows, columns = shape
    if columns % pattern.m:
        raise PatternDoesNotFit(
            f"{layer} has {columns} input channels, which {pattern.m} does not divide, so {pattern} does not fit. "
            f'Choose another pattern, or leave the layer dense by adding "{layer}" to ignore.'
        )
    if min_degree * pattern.m > pattern.n * rows:
        raise MinDegreeImpossible(
            f"{layer} keeps {pattern.n} of {pattern.m} weights in each of {rows} rows, so its input channels can "
            f"have at most {pattern.n * rows // pattern.m} edges each, and min_degree {min_degree} cannot be met. "
            f'Lower min_degree, or leave the layer dense by adding "{layer}" to ignore.'
        )
