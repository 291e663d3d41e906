"""What requests and answers on links look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.examples import JOB_ID, example, example_list
from app.expiry import Expiry
from app.pages import Page
from app.shares.models import ShareLink

_SHARE: dict[str, Any] = {
    "object": "share",
    "id": "share_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "job_id": JOB_ID,
    "created_at": "2026-05-04T09:30:00Z",
    "expires_at": "2026-05-11T09:30:00Z",
}
_TOKEN = "eggs_share_01jv3k0s9e6x7q2m4n8p5r1t0w_0f1e2d3c"  # noqa: S105
_CREATED = _SHARE | {"token": _TOKEN, "url": f"/shared#{_TOKEN}"}


class ShareCreate(BaseModel):
    """A link to be made."""

    model_config = ConfigDict(extra="forbid") | example({"expires_at": "2099-05-11T09:30:00Z"})

    expires_at: Expiry | None = Field(None, description="When it stops opening anything; in a week by default.")


class ShareResource(BaseModel):
    """A link that shows one job to whoever has it, without what would open anything."""

    model_config = example(_SHARE)

    object: Literal["share"] = "share"
    id: str = Field(description="Sorts by creation.")
    job_id: str
    created_at: datetime
    expires_at: datetime

    @classmethod
    def of(cls, link: ShareLink) -> Self:
        """As the API shows it."""
        return cls(**_fields(link))


class CreatedShare(ShareResource):
    """A new link, with what opens it."""

    model_config = example(_CREATED)

    token: str = Field(description="Opens what the link does, as `Authorization: Bearer …`. Shown only this once.")
    url: str = Field(description="The page to open in a browser, at this service's address. Shown only this once.")

    @classmethod
    def of_new(cls, link: ShareLink, token: str) -> Self:
        """As the API shows it once."""
        # Behind #, where browsers keep it to themselves: no log has it, and no other site is told.
        return cls(**_fields(link), token=token, url=f"/shared#{token}")


class ShareList(Page[ShareResource, str]):
    """All links of a job, the oldest first."""

    model_config = example_list(_SHARE)


class ShareDeleted(BaseModel):
    """A link is over."""

    model_config = example({"object": "share", "id": _SHARE["id"], "deleted": True})

    object: Literal["share"] = "share"
    id: str
    deleted: Literal[True] = True


def _fields(link: ShareLink) -> dict[str, Any]:
    return {name: getattr(link, name) for name in ShareResource.model_fields if name != "object"}
