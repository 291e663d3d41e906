"""Requests that may be sent twice and are meant once, by their `Idempotency-Key`."""

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import Header, Request, Response
from pydantic import BaseModel
from sqlalchemy import String
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db import Base, utcnow
from app.problems import Problem

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Any text that is new for each request you mean. Sent again with the same body, it gives what "
        "was made the first time, with `Idempotent-Replayed: true`.",
    ),
]


class IdempotencyKey(Base):
    """What a request with an `Idempotency-Key` made, and the fingerprint of its body."""

    __tablename__ = "idempotency_keys"

    project: Mapped[str] = mapped_column(String(64), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    # The column is named for the jobs that it was made for, as versions before this one know it.
    resource_id: Mapped[str] = mapped_column("job_id", String(40))
    created_at: Mapped[datetime]


def once(
    session: Session, project: str, key: str | None, body: BaseModel, make: Callable[[], str], secret: str = ""
) -> tuple[str, bool]:
    """The id of what `make` makes, or of what the same body with the same key made before: then also True.

    The same body has the same `secret` in it.

    Raises a 422 `Problem` where the key came with another body, and what `make` raises: then roll back.
    """
    if key is None:
        return make(), False
    fingerprint = _fingerprint(body, secret)
    if (record := session.get(IdempotencyKey, (project, key))) is None:
        record = IdempotencyKey(
            project=project, key=key, fingerprint=fingerprint, resource_id="", created_at=utcnow()
        )
        try:
            # Before all else: the same request, sent twice at once, waits here for the end of the other one.
            with session.begin_nested():
                session.add(record)
        except IntegrityError:
            record = session.get(IdempotencyKey, (project, key))
            assert record is not None
        else:
            record.resource_id = make()
            return record.resource_id, False
    if record.fingerprint != fingerprint:
        raise Problem(
            "idempotency-key-reused",
            "This Idempotency-Key belongs to another request",
            422,
            f"It was sent before with a different body, which made {record.resource_id}. Use a new key.",
        )
    return record.resource_id, True


def answer(request: Request, response: Response, route: str, replayed: bool, **path: str) -> None:
    """Says in the answer's headers where the resource is, and whether it was there before."""
    response.headers["Location"] = str(request.url_for(route, **path).path)
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"


def _fingerprint(body: BaseModel, secret: str) -> str:
    """Without defaults, to which the next version of the service may add some."""
    sent = json.dumps(body.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return hmac.new(secret.encode(), sent.encode(), hashlib.sha256).hexdigest()
