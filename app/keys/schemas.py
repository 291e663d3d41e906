"""What requests and answers on keys look like."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.examples import example, example_list
from app.expiry import Expiry
from app.keys.limits import NONE, KeyLimits
from app.keys.models import ApiKey
from app.keys.scopes import DEFAULT_SCOPES, Scope
from app.pages import Page

_KEY: dict[str, Any] = {
    "object": "key",
    "id": "key_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "name": "nightly pipeline",
    "scopes": ["jobs:read", "jobs:write"],
    "created_at": "2026-05-04T09:19:58.120000Z",
    "expires_at": "2027-05-04T00:00:00Z",
    "limits": {"queued_jobs": 100, "running_jobs": 2, "upload_bytes": None, "stored_bytes": None},
    "last_used_at": None,
    "revoked_at": None,
}
_CREATED = _KEY | {"token": "eggs_01jv3k0s9e6x7q2m4n8p5r1t0w_0f1e2d3c"}


class KeyCreate(BaseModel):
    """A key to be made, for the project of the key that asks."""

    model_config = ConfigDict(extra="forbid") | example(
        {"name": "nightly pipeline", "scopes": ["jobs:read", "jobs:write"], "expires_at": "2099-05-04T00:00:00Z"}
    )

    name: str = Field("", max_length=128, pattern=r"^[^\x00]*$", description="What the key is for.")
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))] = Field(
        list(DEFAULT_SCOPES), description="What it may be used for."
    )
    expires_at: Expiry | None = Field(None, description="When it stops opening anything; never by default.")
    limits: KeyLimits = Field(
        NONE, description="What it may take, where that is less than the installation allows."
    )


class KeyResource(BaseModel):
    """A key, without what would open anything."""

    model_config = example(_KEY)

    object: Literal["key"] = "key"
    id: str = Field(description="Sorts by creation.")
    name: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    limits: KeyLimits
    last_used_at: datetime | None = Field(description="To the minute.")
    revoked_at: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """As the API shows it."""
        return cls(**_fields(key))


class CreatedKey(KeyResource):
    """A new key, with the text to send."""

    model_config = example(_CREATED)

    token: str = Field(description="To be sent as `Authorization: Bearer …`. Shown only this once.")

    @classmethod
    def of_new(cls, key: ApiKey, token: str) -> Self:
        """As the API shows it once."""
        return cls(**_fields(key), token=token)


class KeyList(Page[KeyResource, str]):
    """All keys of the project, the oldest first."""

    model_config = example_list(_KEY)


def _fields(key: ApiKey) -> dict[str, Any]:
    plain = KeyResource.model_fields.keys() - {"object", "limits"}
    fields = {name: getattr(key, name) for name in plain}
    return fields | {"scopes": key.scopes.split(), "limits": KeyLimits.of(key)}
