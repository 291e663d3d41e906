"""Sends what is due: a few threads, so that an endpoint that is slow holds up no other."""

import logging
import time
from datetime import datetime
from importlib.metadata import version
from threading import Event, Lock, Thread

from sqlalchemy.orm import Session, sessionmaker
from standardwebhooks import Webhook

from app.db import utcnow
from app.secrets import Secrets, UnreadableSecret
from app.webhooks import turns
from app.webhooks.sender import Outcome, Sender
from app.webhooks.turns import Message, Turn

THREADS = 8
_USER_AGENT = f"eggs/{version('eggs')}"
_STOP_SECONDS = 3.0
_FORGET_SECONDS = 600.0

logger = logging.getLogger(__name__)


class Couriers:
    """Threads that send, from `start` to `stop`. Of those that have nothing to send one looks every `interval`."""

    def __init__(
        self,
        readers: sessionmaker[Session],
        sessions: sessionmaker[Session],
        secrets: Secrets,
        sender: Sender,
        interval: float = 1.0,
    ) -> None:
        self._readers = readers
        self._sessions = sessions
        self._secrets = secrets
        self._sender = sender
        self._interval = interval
        self._stopped = Event()
        self._looking = Lock()
        self._forgot_at = time.monotonic()
        self._threads = [Thread(target=self._run, name=f"courier-{n}", daemon=True) for n in range(THREADS)]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends them. Attempts at hand get a moment; those that take longer are made again, as after a crash."""
        self._stopped.set()
        deadline = time.monotonic() + _STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._looking:
                    turn = self._look()
                if turn is not None:
                    self._serve(turn)
            except Exception:  # whatever it is: messages are sent only while this thread lives
                logger.exception("Webhooks could not be sent; they are tried again")
                self._stopped.wait(self._interval)

    def _look(self) -> Turn | None:
        """A turn, as soon as there is one; None at the end."""
        while not self._stopped.is_set():
            if time.monotonic() - self._forgot_at > _FORGET_SECONDS:
                self._forgot_at = time.monotonic()
                with self._sessions.begin() as session:
                    turns.forget(session)
            with self._readers.begin() as session:
                waiting = turns.waiting(session, limit=THREADS)
            for endpoint_id in waiting:
                with self._sessions.begin() as session:
                    if (turn := turns.take(session, endpoint_id)) is not None:
                        return turn
            if not waiting:
                self._stopped.wait(self._interval)
        return None

    def _serve(self, turn: Turn) -> None:
        until = time.monotonic() + turns.TURN.total_seconds()
        while time.monotonic() < until and not self._stopped.is_set():
            with self._readers.begin() as session:
                message = turns.next_message(session, turn)
            if message is None:
                break
            now = utcnow()
            outcome = self._attempt(message, now)
            with self._sessions.begin() as session:
                turns.settle(session, message, outcome, now)
        with self._sessions.begin() as session:
            turns.end(session, turn)

    def _attempt(self, message: Message, now: datetime) -> Outcome:
        try:
            return self._sender.send(message.url, self._headers(message, now), message.payload.encode())
        except UnreadableSecret as error:
            logger.error("%s cannot be signed: %s", message.id, error)
            return Outcome(error="The webhook's secret cannot be read. Rotate it.")
        except Exception:  # else the message would be tried again and again, without a pause
            logger.exception("%s could not be sent", message.id)
            return Outcome(error="Something went wrong on our side.")

    def _headers(self, message: Message, now: datetime) -> dict[str, str]:
        keys = [Webhook(self._secrets.decrypt(secret)) for secret in message.secrets]
        return {
            **_cloud_event(message),
            "Content-Type": "application/json",
            "User-Agent": _USER_AGENT,
            "webhook-id": message.id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(key.sign(message.id, now, message.payload) for key in keys),
        }


def _cloud_event(message: Message) -> dict[str, str]:
    """Makes the message a CloudEvent too, in the binary mode of their HTTP binding (1.0.2, section 3.1).

    The body is its data. These headers are not signed; the same is in the body, but for the id, which is signed.
    """
    if message.job_id is not None:
        source, about = "/v1/jobs", {"subject": message.job_id}
    elif message.sweep_id is not None:
        source, about = "/v1/sweeps", {"subject": message.sweep_id}
    else:
        source, about = f"/v1/webhooks/{message.endpoint_id}", {}
    attributes = {
        "specversion": "1.0",
        "id": message.id,
        "source": source,
        "type": message.type,
        "time": message.created_at.isoformat(),
        **about,
    }
    return {f"ce-{name}": value for name, value in attributes.items()}
