"""What answers on the audit log look like."""

from datetime import datetime
from typing import Any, Literal, Self

from pydantic import BaseModel, Field

from app.audit.models import AuditEntry
from app.audit.service import Action
from app.examples import JOB_ID, example, example_list
from app.pages import Page

_ENTRY: dict[str, Any] = {
    "object": "audit_entry",
    "id": "audit_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "key_id": "key_01jv3k0s9e6x7q2m4n8p5r1t0w",
    "action": "job.submitted",
    "subject": JOB_ID,
    "created_at": "2026-05-04T09:19:58.120000Z",
}


class AuditEntryResource(BaseModel):
    """Something that was done in the project."""

    model_config = example(_ENTRY)

    object: Literal["audit_entry"] = "audit_entry"
    id: str = Field(description="Sorts by time.")
    key_id: str | None = Field(description="The key it was done with; null for the installation's command line.")
    action: Action
    subject: str = Field(description="Id of what it was done to.")
    created_at: datetime

    @classmethod
    def of(cls, entry: AuditEntry) -> Self:
        """As the API shows it."""
        return cls(
            id=entry.id,
            key_id=entry.key_id,
            action=Action(entry.action),
            subject=entry.subject,
            created_at=entry.created_at,
        )


class AuditEntryList(Page[AuditEntryResource, str]):
    """One page of audit entries, newest first. For the next one, pass `last_id` as `after`."""

    model_config = example_list(_ENTRY)
