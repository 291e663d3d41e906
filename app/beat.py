"""What recurs: jobs whose message was lost are offered again, what has expired is removed, webhooks are sent.

The API does it beside its requests, or `eggs beat` in a process of its own. Any number of processes may be at it
at once: a message too many changes nothing, and what must happen once is claimed in the database first.
"""

import signal
from collections.abc import Callable

from celery import Celery
from sqlalchemy.orm import Session, sessionmaker

from app import logs, tracing
from app.artifacts.store import Store, open_store
from app.db import make_engine, make_sessions
from app.dispatcher import Dispatcher
from app.migrate import upgrade
from app.queue import make_celery
from app.secrets import Secrets
from app.settings import Settings
from app.sweeper import Sweeper
from app.webhooks.courier import Couriers
from app.webhooks.sender import Sender

_STOP = {signal.SIGTERM, signal.SIGINT}


class Beat:
    """Threads that do it, from `start` to `stop`."""

    def __init__(
        self,
        settings: Settings,
        *,
        readers: sessionmaker[Session],
        sessions: sessionmaker[Session],
        celery: Celery,
        store: Store,
        secrets: Secrets,
    ) -> None:
        self._parts = (
            Dispatcher(readers, celery, settings.dispatch_interval_seconds, settings.max_running_per_key),
            Sweeper(sessions, settings, store),
            Couriers(readers, sessions, secrets, Sender(allow_private=settings.webhook_allow_private)),
        )

    def start(self) -> None:
        """Starts them."""
        for part in self._parts:
            part.start()

    def stop(self) -> None:
        """Ends them; what they are at gets a moment, and is done again where that is not enough."""
        for part in self._parts:
            part.stop()


def run(settings: Settings, *, started: Callable[[], None]) -> None:
    """Does what recurs, and nothing else, until it is told to stop by a signal. Calls `started` once it does."""
    logs.setup(settings.log_format)
    tracing.setup("eggs-beat")
    # Waited for, in all threads: a handler that sets an event can meet the lock of the wait that it is to end.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    engine = make_engine(settings.database_url)
    upgrade(engine)
    beat = Beat(
        settings,
        readers=make_sessions(engine, read_only=True),
        sessions=make_sessions(engine),
        celery=make_celery(settings),
        store=open_store(settings),
        secrets=Secrets(settings),
    )
    beat.start()
    started()
    signal.sigwait(_STOP)
    beat.stop()
    engine.dispose()
    tracing.flush()
