"""Rules on webhooks as users see them. Nothing here commits: the request does."""

import base64
import secrets as random
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.orm import Session

from app import db
from app.audit import service as audit
from app.db import utcnow
from app.ids import is_id, new_id
from app.keys import repository as keys
from app.keys.service import Principal
from app.problems import Problem
from app.secrets import Secrets
from app.webhooks import outbox, repository
from app.webhooks.models import DeliveryState, WebhookDelivery, WebhookEndpoint
from app.webhooks.schemas import WebhookCreate, WebhookUpdate

MOST_PER_PROJECT = 20
OLD_SECRET_SIGNS_FOR = timedelta(hours=24)
_SECRET_BYTES = 32


def create(
    session: Session, secrets: Secrets, principal: Principal, body: WebhookCreate
) -> tuple[WebhookEndpoint, str]:
    """A new webhook, and the secret it signs with. Raises a 409 `Problem` where the project has too many."""
    keys.lock_project(session, principal.project)
    if repository.count(session, principal.project) >= MOST_PER_PROJECT:
        raise Problem(
            "too-many-webhooks",
            "The project has too many webhooks",
            409,
            f"A project may have {MOST_PER_PROJECT}. Delete one that is not needed any more.",
            limit=MOST_PER_PROJECT,
        )
    secret = _new_secret()
    webhook = WebhookEndpoint(
        id=new_id("whk"),
        project=principal.project,
        url=str(body.url),
        events=" ".join(body.events),
        description=body.description,
        enabled=True,
        secret=secrets.encrypt(secret),
        created_at=utcnow(),
    )
    repository.add(session, webhook)
    _note(session, principal, audit.Action.WEBHOOK_CREATED, webhook.id)
    return webhook, secret


def get(session: Session, project: str, webhook_id: str) -> WebhookEndpoint:
    """The project's webhook. Raises a 404 `Problem`, also where it is another project's."""
    webhook = repository.get_in_project(session, project, webhook_id) if is_id("whk", webhook_id) else None
    if webhook is None:
        raise Problem(
            "webhook-not-found",
            "No such webhook",
            404,
            "This key's project has no webhook with that id. GET /v1/webhooks lists those it has.",
        )
    return webhook


def page(
    session: Session, project: str, *, limit: int, after: str | None
) -> tuple[Sequence[WebhookEndpoint], bool]:
    """Up to `limit` webhooks, newest first, and whether there are more."""
    webhooks = repository.page(session, project, limit=limit + 1, after=after)
    return webhooks[:limit], len(webhooks) > limit


def update(session: Session, principal: Principal, webhook_id: str, body: WebhookUpdate) -> WebhookEndpoint:
    """Changes what the body has. One that is disabled is sent nothing more, and what was still to be sent fails.

    Raises a 404 `Problem`.
    """
    webhook = get(session, principal.project, webhook_id)
    if body.url is not None:
        webhook.url = str(body.url)
    if body.events is not None:
        webhook.events = " ".join(body.events)
    if body.description is not None:
        webhook.description = body.description
    if body.enabled is not None:
        webhook.enabled = body.enabled
        webhook.disabled_reason = None
        if not body.enabled:
            repository.give_up(session, webhook.id, "The webhook was disabled.")
    session.flush()
    _note(session, principal, audit.Action.WEBHOOK_UPDATED, webhook.id)
    return webhook


def delete(session: Session, principal: Principal, webhook_id: str) -> None:
    """Removes a webhook and its log. Raises a 404 `Problem`."""
    webhook = get(session, principal.project, webhook_id)
    repository.remove(session, webhook.id)
    _note(session, principal, audit.Action.WEBHOOK_DELETED, webhook.id)


def rotate(
    session: Session, secrets: Secrets, principal: Principal, webhook_id: str
) -> tuple[WebhookEndpoint, str]:
    """Gives a webhook a new secret; a while the old one signs too, if readable. Raises a 404 `Problem`."""
    webhook = get(session, principal.project, webhook_id)
    secret = _new_secret()
    webhook.previous_secret = webhook.secret if secrets.can_decrypt(webhook.secret) else None
    webhook.previous_secret_until = db.now(session) + OLD_SECRET_SIGNS_FOR
    webhook.secret = secrets.encrypt(secret)
    session.flush()
    _note(session, principal, audit.Action.WEBHOOK_SECRET_ROTATED, webhook.id)
    return webhook, secret


def ping(session: Session, principal: Principal, webhook_id: str) -> WebhookDelivery:
    """Has a message sent that tells of nothing. Raises a 404 or 409 `Problem`."""
    webhook = _enabled(get(session, principal.project, webhook_id))
    delivery = outbox.ping(session, webhook.id)
    _note(session, principal, audit.Action.WEBHOOK_PINGED, webhook.id)
    return delivery


def deliveries(
    session: Session,
    project: str,
    webhook_id: str,
    *,
    limit: int,
    after: str | None,
    state: DeliveryState | None,
) -> tuple[Sequence[WebhookDelivery], bool]:
    """Up to `limit` messages, newest first, and whether there are more. Raises a 404 `Problem`."""
    webhook = get(session, project, webhook_id)
    found = repository.deliveries(session, webhook.id, limit=limit + 1, after=after, state=state)
    return found[:limit], len(found) > limit


def redeliver(session: Session, principal: Principal, webhook_id: str, delivery_id: str) -> WebhookDelivery:
    """Has a message sent at once, with all its tries, whatever became of it. Raises a 404 or 409 `Problem`."""
    webhook = get(session, principal.project, webhook_id)
    delivery = repository.get_delivery(session, webhook.id, delivery_id) if is_id("msg", delivery_id) else None
    if delivery is None:
        raise Problem(
            "delivery-not-found",
            "No such delivery",
            404,
            "Nothing with that id was sent to this webhook, or it is in the log no more. "
            "GET /v1/webhooks/{webhook_id}/deliveries lists what is.",
        )
    _enabled(webhook)
    _note(session, principal, audit.Action.WEBHOOK_REDELIVERED, delivery.id)
    return repository.queue_again(session, delivery.id, db.now(session))


def _enabled(webhook: WebhookEndpoint) -> WebhookEndpoint:
    if not webhook.enabled:
        raise Problem(
            "webhook-disabled",
            "The webhook is disabled",
            409,
            f'Nothing is sent to it. Enable it first: PATCH /v1/webhooks/{webhook.id} with {{"enabled": true}}.',
        )
    return webhook


def _new_secret() -> str:
    return f"whsec_{base64.b64encode(random.token_bytes(_SECRET_BYTES)).decode()}"


def _note(session: Session, principal: Principal, action: audit.Action, subject: str) -> None:
    audit.note(session, principal.project, principal.key_id, action, subject)
