"""What answers on masks look like."""

from typing import Any, Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, Field

from app.examples import JOB_ID, example, example_list
from app.pages import Page

_LAYER = "model.layers.0.self_attn.q_proj"
_MASK: dict[str, Any] = {
    "object": "mask",
    "id": _LAYER,
    "block": 0,
    "shape": [576, 576],
    "url": f"/v1/jobs/{JOB_ID}/masks/{_LAYER}",
}


class MaskResource(BaseModel):
    """Which weights of a layer are kept."""

    model_config = example(_MASK)

    object: Literal["mask"] = "mask"
    id: str = Field(description="The layer's name, as the report has it.")
    block: int
    shape: tuple[int, int] = Field(description="(C_out, C_in)")
    url: str = Field(description="Where to have it as a picture.")

    @classmethod
    def of(cls, job_id: str, layer: dict[str, Any]) -> Self:
        """That of a layer of the job's report."""
        url = f"/v1/jobs/{job_id}/masks/{quote(layer['name'])}"
        return cls(id=layer["name"], block=layer["block"], shape=layer["shape"], url=url)


class MaskList(Page[MaskResource, str]):
    """All masks of a job, in the order of its report."""

    model_config = example_list(_MASK)
