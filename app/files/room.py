"""How much may be uploaded: in one file, and in all files of a key and of a project."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy.orm import Session

from app.files import repository
from app.keys.limits import Limits
from app.keys.service import Principal
from app.problems import Problem
from app.settings import Settings

_CLOSE = {"Connection": "close"}
"""What is refused is not read on."""


@dataclass(frozen=True, slots=True)
class Quota:
    """Bytes that the files of a key or a project may take together, unpacked models included, and do take."""

    whose: Literal["key", "project"]
    limit: int
    stored: int


@dataclass(frozen=True, slots=True)
class Room:
    """What there was for a key's upload when it was asked for."""

    upload_bytes: int
    quotas: Sequence[Quota]

    @classmethod
    def of(cls, session: Session, settings: Settings, principal: Principal) -> "Room":
        """As of now. Only where the project is locked, no other upload of it takes the same room."""
        limits = Limits.of(settings, principal.limits)
        of_key, of_project = repository.stored_bytes(session, principal.project, principal.key_id)
        quotas = [Quota("project", settings.max_stored_bytes_per_project, of_project)]
        if limits.stored_bytes is not None:
            quotas.insert(0, Quota("key", limits.stored_bytes, of_key))
        return cls(limits.upload_bytes, quotas)

    def check_file(self, size: int) -> None:
        """Raises a 413 `Problem` where a file may not have so many bytes, or there is no room for them."""
        if size > self.upload_bytes:
            raise too_large(self.upload_bytes)
        self.check_stored(size)

    def check_stored(self, size: int) -> None:
        """Raises a 413 `Problem` where there is no room for so many bytes more."""
        for quota in self.quotas:
            if quota.stored + size > quota.limit:
                raise _no_room(quota)


def too_large(limit: int) -> Problem:
    """The file, or what it unpacks to, is larger than the key's may be."""
    return Problem(
        "file-too-large",
        "The file is too large",
        413,
        f"A file that this API key uploads, and the model it unpacks to, may have {limit} bytes at most. Send "
        "less of it, or ask the operator for a higher limit.",
        headers=_CLOSE,
        limit=limit,
    )


def _no_room(quota: Quota) -> Problem:
    files = "that this API key has uploaded" if quota.whose == "key" else "of a project"
    return Problem(
        "no-room-for-file",
        "There is no room for the file",
        413,
        f"The files {files} may take {quota.limit} bytes at most, unpacked models included. Delete some that no "
        "job needs: DELETE /v1/files/{id}.",
        headers=_CLOSE,
        limit=quota.limit,
        whose=quota.whose,
    )
