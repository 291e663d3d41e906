"""What a courier may do to messages. It has an endpoint to itself for a turn: so no message is sent twice at once,
messages to an endpoint go out in the order of their events, and endpoints share the couriers fairly.

Each function is meant for a transaction of its own and commits nothing. Leases, and what is due, go by the
database's clock, as in `app.jobs.leases`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import SystemRandom

from sqlalchemy.orm import Session

from app import db
from app.ids import first_id, new_id
from app.webhooks import repository
from app.webhooks.models import DeliveryState
from app.webhooks.sender import SECONDS, Outcome

PAUSES = (
    timedelta(seconds=5),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=5),
    timedelta(hours=10),
    timedelta(hours=10),
)
"""After each failed attempt but the last one; each is up to a tenth shorter or longer."""
TURN = timedelta(seconds=5)
"""After so long a courier begins no other attempt in a turn."""
KEPT = timedelta(days=30)
"""So long the log has what was delivered or given up."""

# Longer than a turn and its last attempt: meanwhile nobody else takes the endpoint.
_LEASE = TURN + timedelta(seconds=SECONDS) + timedelta(seconds=40)
_GONE = 410
_GONE_REASON = "The endpoint answered 410 Gone."

_random = SystemRandom()


@dataclass(frozen=True, slots=True)
class Turn:
    """The right to send to an endpoint."""

    endpoint_id: str
    token: str


@dataclass(frozen=True, slots=True)
class Message:
    """What is to be sent, where to, and signed with which secrets, still encrypted."""

    id: str
    endpoint_id: str
    url: str
    secrets: tuple[str, ...]
    type: str
    job_id: str | None
    sweep_id: str | None
    created_at: datetime
    payload: str
    attempts: int
    retries: int


def waiting(session: Session, *, limit: int) -> Sequence[str]:
    """Endpoints that could be taken."""
    return repository.waiting(session, db.now(session), limit=limit)


def take(session: Session, endpoint_id: str) -> Turn | None:
    """A turn at an endpoint; None where another courier was faster."""
    now, token = db.now(session), new_id("lease")
    return Turn(endpoint_id, token) if repository.take(session, endpoint_id, token, now, now + _LEASE) else None


def next_message(session: Session, turn: Turn) -> Message | None:
    """What is to be sent next; None where there is nothing, or the turn is over."""
    now = db.now(session)
    if (found := repository.next_due(session, turn.endpoint_id, turn.token, now)) is None:
        return None
    delivery, endpoint = found
    secrets = [endpoint.secret]
    if endpoint.previous_secret and endpoint.previous_secret_until and endpoint.previous_secret_until > now:
        secrets.append(endpoint.previous_secret)
    return Message(
        id=delivery.id,
        endpoint_id=endpoint.id,
        url=endpoint.url,
        secrets=tuple(secrets),
        type=delivery.type,
        job_id=delivery.job_id,
        sweep_id=delivery.sweep_id,
        created_at=delivery.created_at,
        payload=delivery.payload,
        attempts=delivery.attempts,
        retries=delivery.retries,
    )


def settle(session: Session, message: Message, outcome: Outcome, attempted_at: datetime) -> None:
    """Stores what became of an attempt, and what comes next."""
    # The address that a webhook has moved away from may well be gone.
    gone = outcome.status == _GONE and repository.disable(session, message.endpoint_id, message.url, _GONE_REASON)
    state, next_attempt_at = DeliveryState.DELIVERED, None
    if outcome.error is not None and message.retries == len(PAUSES):
        state = DeliveryState.FAILED
    elif outcome.error is not None:
        state = DeliveryState.PENDING
        next_attempt_at = db.now(session) + PAUSES[message.retries] * _random.uniform(0.9, 1.1)
    repository.settle(
        session,
        message.id,
        message.attempts,
        message.retries,
        state=state,
        retries=message.retries + (state is DeliveryState.PENDING),
        next_attempt_at=next_attempt_at,
        last_attempt_at=attempted_at,
        last_status=outcome.status,
        last_error=outcome.error,
    )
    if gone:
        repository.give_up(session, message.endpoint_id, _GONE_REASON)


def end(session: Session, turn: Turn) -> None:
    """Lets another courier have the endpoint."""
    repository.release(session, turn.endpoint_id, turn.token)


def forget(session: Session) -> None:
    """Removes what is in the log for longer than it is kept."""
    repository.forget(session, first_id("msg", db.now(session) - KEPT))
