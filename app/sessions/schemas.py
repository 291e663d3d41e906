"""What answers on sessions look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.examples import example
from app.keys.scopes import Scope
from app.keys.service import Principal
from app.sessions.models import BrowserSession

_SESSION_ID = "ses_01jv3k0s9e6x7q2m4n8p5r1t0w"
_SESSION: dict[str, Any] = {
    "object": "session",
    "id": _SESSION_ID,
    "key_id": "key_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "project": "default",
    "scopes": ["jobs:read", "jobs:write"],
    "created_at": "2026-05-04T09:19:58.120000Z",
    "expires_at": "2026-05-04T21:19:58.120000Z",
}


class SessionResource(BaseModel):
    """A signed-in browser. What opens anything is in its cookie alone."""

    model_config = example(_SESSION)

    object: Literal["session"] = "session"
    id: str
    key_id: str = Field(description="The key it was made with, and ends with.")
    project: str = Field(description="That of the key.")
    scopes: list[Scope] = Field(description="Those of the key.")
    created_at: datetime
    expires_at: datetime = Field(description="When it ends by itself.")

    @classmethod
    def of(cls, browser: BrowserSession, principal: Principal) -> Self:
        """As the API shows it."""
        return cls(
            id=browser.id,
            key_id=browser.key_id,
            project=principal.project,
            scopes=sorted(principal.scopes),
            created_at=browser.created_at,
            expires_at=browser.expires_at,
        )


class SessionEnded(BaseModel):
    """A session is over."""

    model_config = example({"object": "session", "id": _SESSION_ID, "deleted": True})

    object: Literal["session"] = "session"
    id: str
    deleted: Literal[True] = True
