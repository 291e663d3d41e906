"""What answers on estimates look like."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.examples import example

_SIZES: dict[str, Any] = {
    "parameters": 134515008,
    "dense_bytes": 269030016,
    "packed_bytes": 172828800,
    "output_bytes": 441858816,
    "basis": "From the tensors in the model's files.",
}
_MEMORY: dict[str, Any] = {
    "bytes": 1288490188,
    "at_least": False,
    "basis": "The most that 3 jobs of this model took with eggs:balanced and as much calibration.",
}
_TIME: dict[str, Any] = {
    "seconds": 101.2,
    "low": 95.8,
    "high": 112.0,
    "basis": "From 3 jobs of this model with eggs:balanced, in proportion to tokens of calibration.",
}
_ESTIMATE: dict[str, Any] = {"object": "estimate", "sizes": _SIZES, "memory": _MEMORY, "time": _TIME}


class SizeEstimate(BaseModel):
    """The weights that a job would leave, without its few other files."""

    model_config = example(_SIZES)

    parameters: int | None
    dense_bytes: int | None = Field(description="In dense form, with its zeros: as large as the model is.")
    packed_bytes: int | None = Field(description="In packed form.")
    output_bytes: int | None = Field(description="Of the forms that the request asks for.")
    basis: str = Field(description="What the figures rest on; or why there are none.")


class MemoryEstimate(BaseModel):
    """The memory that a job's process would take at its peak."""

    model_config = example(_MEMORY)

    bytes: int | None
    at_least: bool = Field(description="Whether that is only what it takes in any case.")
    basis: str = Field(description="What the figure rests on; or why there is none.")


class TimeEstimate(BaseModel):
    """How long a job would run, from its worker's start to its end."""

    model_config = example(_TIME)

    seconds: float | None = Field(description="The median of what the jobs that it rests on come to.")
    low: float | None = Field(description="The least of these.")
    high: float | None = Field(description="The most of these.")
    basis: str = Field(description="What the figures rest on; or why there are none.")


class Estimate(BaseModel):
    """What a request would take and leave. Figures are null where nothing at hand tells them: none is made up."""

    model_config = example(_ESTIMATE)

    object: Literal["estimate"] = "estimate"
    sizes: SizeEstimate
    memory: MemoryEstimate
    time: TimeEstimate
