"""Writes what is to be sent, in one transaction with what it tells of: neither is there without the other."""

import json
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from sqlalchemy.orm import Session

from app import db
from app.ids import new_id
from app.jobs.models import Job, JobEvent
from app.sweeps import comparison
from app.sweeps.models import Sweep
from app.webhooks import repository
from app.webhooks.models import WebhookDelivery, WebhookEventType
from app.webhooks.payloads import JobEventPayload, PingPayload, SweepPayload


def write_job(session: Session, job: Job, event: JobEvent) -> None:
    """Messages on an event of a job."""
    _tell(
        session,
        job.project,
        event.type,
        lambda: JobEventPayload.of(job, event),
        job_id=job.id,
        sequence=event.sequence,
    )


def write_sweep(session: Session, sweep: Sweep) -> None:
    """Messages on the end of a sweep."""
    _tell(
        session,
        sweep.project,
        WebhookEventType.SWEEP_COMPLETED,
        lambda: SweepPayload.of(comparison.resource(session, sweep)),
        sweep_id=sweep.id,
    )


def ping(session: Session, endpoint_id: str) -> WebhookDelivery:
    """A message that tells of nothing."""
    payload = PingPayload.of(endpoint_id)
    return _add(session, endpoint_id, payload.type, _text(payload))


def _tell(session: Session, project: str, kind: str, payload: Callable[[], BaseModel], **about: Any) -> None:
    """Messages to the project's endpoints that want to be told of such events, about what the columns name."""
    endpoints = repository.enabled(session, project)
    wanting = [endpoint.id for endpoint in endpoints if kind in endpoint.events.split()]
    if wanting:
        text = _text(payload())
        for endpoint_id in wanting:
            _add(session, endpoint_id, kind, text, **about)


def _text(payload: BaseModel) -> str:
    # Not pydantic's own: it refuses what is not quite Unicode, and no job shall fail to end for that.
    return json.dumps(payload.model_dump(mode="json"), separators=(",", ":"))


def _add(session: Session, endpoint_id: str, kind: str, payload: str, **about: Any) -> WebhookDelivery:
    now = db.now(session)
    delivery = WebhookDelivery(
        id=new_id("msg", now),
        endpoint_id=endpoint_id,
        type=kind,
        payload=payload,
        created_at=now,
        next_attempt_at=now,
        **about,
    )
    repository.add_delivery(session, delivery)
    return delivery
