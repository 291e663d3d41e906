"""What a key may take: limits that the operator has set for all, and tighter ones of its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from app.settings import Settings

if TYPE_CHECKING:
    from app.keys.models import ApiKey

MOST = 2**53 - 1
"""The largest whole number that every reader of JSON takes for what it is."""


class KeyLimits(BaseModel):
    """A key's own limits. They only tighten what the installation allows; null leaves it at that."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    queued_jobs: int | None = Field(
        None, ge=0, le=MOST, description="Jobs that may wait, beside those that `running_jobs` lets run."
    )
    running_jobs: int | None = Field(
        None, ge=1, le=MOST, description="Jobs that may run at a time; the others wait."
    )
    upload_bytes: int | None = Field(
        None, ge=1, le=MOST, description="Bytes of an uploaded file, and of the model that an archive unpacks to."
    )
    stored_bytes: int | None = Field(
        None, ge=1, le=MOST, description="Bytes that the files it has uploaded may take together."
    )

    @classmethod
    def of(cls, key: "ApiKey") -> Self:
        """As they are stored with the key."""
        return cls(**{name: getattr(key, column) for name, column in _COLUMNS.items()})

    def columns(self) -> dict[str, int | None]:
        """Values for the key's columns."""
        return {column: getattr(self, name) for name, column in _COLUMNS.items()}


_COLUMNS = {name: f"max_{name}" for name in KeyLimits.model_fields}

NONE = KeyLimits()
"""No limit of its own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for a key: of each limit the tighter one. None: there is none."""

    queued_jobs: int
    running_jobs: int | None
    upload_bytes: int
    stored_bytes: int | None

    @classmethod
    def of(cls, settings: Settings, own: KeyLimits) -> Self:
        """Those of a key with these limits of its own."""
        return cls(
            queued_jobs=_tighter(settings.max_queued_per_key, own.queued_jobs),
            running_jobs=_tighter(settings.max_running_per_key, own.running_jobs),
            upload_bytes=_tighter(settings.max_upload_bytes, own.upload_bytes),
            stored_bytes=_tighter(settings.max_stored_bytes_per_key, own.stored_bytes),
        )


_Limit = TypeVar("_Limit", int, int | None)


def _tighter(limit: _Limit, own: int | None) -> _Limit:
    if own is None:
        return limit
    return own if limit is None else min(limit, own)
