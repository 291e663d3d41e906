"""Every query on webhooks and on what is sent to them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, update
from sqlalchemy.orm import Session

from app.webhooks.models import DeliveryState, WebhookDelivery, WebhookEndpoint


def add(session: Session, endpoint: WebhookEndpoint) -> None:
    """Stores a new endpoint."""
    session.add(endpoint)
    session.flush()


def get_in_project(session: Session, project: str, endpoint_id: str) -> WebhookEndpoint | None:
    """The endpoint, if it is this project's."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.project == project)
    return session.scalars(query).one_or_none()


def enabled(session: Session, project: str) -> Sequence[WebhookEndpoint]:
    """The endpoints of a project that are to be told of things; they stay so until the transaction has ended."""
    query = select(WebhookEndpoint).where(WebhookEndpoint.project == project, WebhookEndpoint.enabled)
    return session.scalars(query.order_by(WebhookEndpoint.id).with_for_update(read=True)).all()


def count(session: Session, project: str) -> int:
    """How many endpoints a project has."""
    query = select(func.count()).select_from(WebhookEndpoint).where(WebhookEndpoint.project == project)
    return session.scalars(query).one()


def page(session: Session, project: str, *, limit: int, after: str | None) -> Sequence[WebhookEndpoint]:
    """Up to `limit` endpoints of a project, newest first, beginning after the endpoint `after`."""
    query = (
        select(WebhookEndpoint)
        .where(WebhookEndpoint.project == project)
        .order_by(WebhookEndpoint.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(WebhookEndpoint.id < after)
    return session.scalars(query).all()


def remove(session: Session, endpoint_id: str) -> None:
    """Removes an endpoint and all that was or is to be sent to it."""
    session.execute(delete(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id))


def add_delivery(session: Session, delivery: WebhookDelivery) -> None:
    """Stores a new message."""
    session.add(delivery)
    session.flush()


def get_delivery(session: Session, endpoint_id: str, delivery_id: str) -> WebhookDelivery | None:
    """The message, if it is one to this endpoint."""
    query = select(WebhookDelivery).where(
        WebhookDelivery.id == delivery_id, WebhookDelivery.endpoint_id == endpoint_id
    )
    return session.scalars(query).one_or_none()


def deliveries(
    session: Session, endpoint_id: str, *, limit: int, after: str | None, state: DeliveryState | None
) -> Sequence[WebhookDelivery]:
    """Up to `limit` messages to an endpoint, newest first, beginning after the message `after`."""
    query = (
        select(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id)
        .order_by(WebhookDelivery.id.desc())
        .limit(limit)
    )
    if after is not None:
        query = query.where(WebhookDelivery.id < after)
    if state is not None:
        query = query.where(WebhookDelivery.state == state)
    return session.scalars(query).all()


def queue_again(session: Session, delivery_id: str, now: datetime) -> WebhookDelivery:
    """Has a message sent as if it were new."""
    return session.scalars(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id)
        .values(state=DeliveryState.PENDING, retries=0, next_attempt_at=now)
        .returning(WebhookDelivery),
        execution_options={"synchronize_session": False, "populate_existing": True},
    ).one()


def give_up(session: Session, endpoint_id: str, reason: str) -> None:
    """Ends the tries at whatever is still to be sent to an endpoint."""
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.endpoint_id == endpoint_id, WebhookDelivery.state == DeliveryState.PENDING)
        .values(state=DeliveryState.FAILED, next_attempt_at=None, last_error=reason),
        execution_options={"synchronize_session": False},
    )


def _free(now: datetime) -> ColumnElement[bool]:
    return or_(WebhookEndpoint.lease_expires_at.is_(None), WebhookEndpoint.lease_expires_at < now)


def _due(now: datetime) -> ColumnElement[bool]:
    return (WebhookDelivery.state == DeliveryState.PENDING) & (WebhookDelivery.next_attempt_at <= now)


def waiting(session: Session, now: datetime, *, limit: int) -> Sequence[str]:
    """Endpoints that have messages due and no courier; first the one that was served longest ago."""
    query = (
        select(WebhookEndpoint.id)
        .where(
            WebhookEndpoint.enabled,
            _free(now),
            exists().where(WebhookDelivery.endpoint_id == WebhookEndpoint.id, _due(now)),
        )
        .order_by(WebhookEndpoint.served_at.is_not(None), WebhookEndpoint.served_at, WebhookEndpoint.id)
        .limit(limit)
    )
    return session.scalars(query).all()


def take(session: Session, endpoint_id: str, token: str, now: datetime, expires_at: datetime) -> bool:
    """Gives an endpoint to a courier; False where another one has it. One UPDATE decides."""
    taken = session.scalars(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, _free(now))
        .values(lease_token=token, lease_expires_at=expires_at, served_at=now)
        .returning(WebhookEndpoint.id),
        execution_options={"synchronize_session": False},
    )
    return taken.one_or_none() is not None


def release(session: Session, endpoint_id: str, token: str) -> None:
    """Takes an endpoint from a courier, if it still has it."""
    session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.lease_token == token)
        .values(lease_token=None, lease_expires_at=None),
        execution_options={"synchronize_session": False},
    )


def next_due(
    session: Session, endpoint_id: str, token: str, now: datetime
) -> tuple[WebhookDelivery, WebhookEndpoint] | None:
    """The oldest message that is due, and its endpoint as it is now, for the courier that has it."""
    row = session.execute(
        select(WebhookDelivery, WebhookEndpoint)
        .join(WebhookEndpoint, WebhookEndpoint.id == WebhookDelivery.endpoint_id)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            _due(now),
            WebhookEndpoint.enabled,
            WebhookEndpoint.lease_token == token,
        )
        .order_by(WebhookDelivery.id)
        .limit(1)
    ).one_or_none()
    return None if row is None else (row[0], row[1])


def settle(session: Session, delivery_id: str, attempts: int, retried: int, **values: Any) -> None:
    """Stores what became of an attempt, unless another one was made since `attempts` were counted.

    What was given up meanwhile, as its endpoint was disabled, does not wait for another attempt; and what somebody
    has asked for anew, so that it is not `retried` so often any more, is sent again.
    """
    condition = (WebhookDelivery.attempts == attempts) & (WebhookDelivery.retries == retried)
    if values["state"] is DeliveryState.PENDING:
        condition &= WebhookDelivery.state == DeliveryState.PENDING
    session.execute(
        update(WebhookDelivery)
        .where(WebhookDelivery.id == delivery_id, condition)
        .values(attempts=attempts + 1, **values),
        execution_options={"synchronize_session": False},
    )


def disable(session: Session, endpoint_id: str, url: str, reason: str) -> bool:
    """Has an endpoint told of nothing more; False where it has another address by now, and is left as it is."""
    disabled = session.execute(
        update(WebhookEndpoint)
        .where(WebhookEndpoint.id == endpoint_id, WebhookEndpoint.url == url)
        .values(enabled=False, disabled_reason=reason)
        .returning(WebhookEndpoint.id),
        execution_options={"synchronize_session": False},
    )
    return disabled.first() is not None


def forget(session: Session, before_id: str) -> None:
    """Removes what was sent, or given up, and is older than the message `before_id`."""
    session.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.id < before_id, WebhookDelivery.state != DeliveryState.PENDING
        ),
        execution_options={"synchronize_session": False},
    )
