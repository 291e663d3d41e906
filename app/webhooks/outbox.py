"""Writes what is to be sent, in one transaction with what it tells of: neither is there without the other."""

import json

from sqlalchemy.orm import Session

from app.db import utcnow
from app.ids import new_id
from app.jobs.models import Job, JobEvent
from app.webhooks import repository
from app.webhooks.models import WebhookDelivery
from app.webhooks.payloads import JobEventPayload, PingPayload


def write(session: Session, job: Job, event: JobEvent) -> None:
    """Messages to the project's endpoints that want to be told of such events."""
    endpoints = repository.enabled(session, job.project)
    wanting = [endpoint.id for endpoint in endpoints if event.type in endpoint.events.split()]
    if wanting:
        text = _text(JobEventPayload.of(job, event))
        for endpoint_id in wanting:
            _add(session, endpoint_id, event.type, text, job_id=job.id, sequence=event.sequence)


def ping(session: Session, endpoint_id: str) -> WebhookDelivery:
    """A message that tells of nothing."""
    payload = PingPayload.of(endpoint_id)
    return _add(session, endpoint_id, payload.type, _text(payload))


def _text(payload: JobEventPayload | PingPayload) -> str:
    # Not pydantic's own: it refuses what is not quite Unicode, and no job shall fail to end for that.
    return json.dumps(payload.model_dump(mode="json"), separators=(",", ":"))


def _add(
    session: Session,
    endpoint_id: str,
    kind: str,
    payload: str,
    *,
    job_id: str | None = None,
    sequence: int | None = None,
) -> WebhookDelivery:
    now = utcnow()
    delivery = WebhookDelivery(
        id=new_id("msg"),
        endpoint_id=endpoint_id,
        type=kind,
        job_id=job_id,
        sequence=sequence,
        payload=payload,
        created_at=now,
        next_attempt_at=now,
    )
    repository.add_delivery(session, delivery)
    return delivery
