"""Lists, as every domain answers with them."""

from collections.abc import Sequence
from operator import attrgetter
from typing import Generic, Literal, Self, TypeVar

from pydantic import BaseModel, Field

Item = TypeVar("Item", bound=BaseModel)
Id = TypeVar("Id", str, int)

_id = attrgetter("id")


class Page(BaseModel, Generic[Item, Id]):
    """One page of a list. For the next one, pass `last_id` as `after`."""

    object: Literal["list"] = "list"
    data: list[Item]
    first_id: Id | None = Field(description="Id of the first one on this page.")
    last_id: Id | None = Field(description="Id of the last one on this page.")
    has_more: bool = Field(description="Whether there are more after this page, as of now.")

    @classmethod
    def of(cls, data: Sequence[Item], *, more: bool = False) -> Self:
        """These, and whether there are more after them; a list that is not paged is whole."""
        first_id, last_id = (_id(data[0]), _id(data[-1])) if data else (None, None)
        return cls(data=list(data), first_id=first_id, last_id=last_id, has_more=more)
