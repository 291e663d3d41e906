"""What the generated models are made of: they take what a newer service says without knowing it."""

from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Answer(BaseModel):
    """Something that the service has answered. Fields that this client does not know are passed over."""

    model_config = ConfigDict(extra="ignore", defer_build=True, protected_namespaces=())


class OpenEnum(StrEnum):
    """Values that this client knows by name; any other text of a newer service is a value as well."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value
        member._value_ = value
        return member

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Pydantic's own schema would take a new value to fit less well, and in a union prefer a mere dictionary.
        return core_schema.no_info_plain_validator_function(
            cls, serialization=core_schema.to_string_ser_schema(when_used="json")
        )
