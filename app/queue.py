"""The doorbell: a message that carries a job's id and means "look into the database, whose turn it is".

The database is the truth. A message may be lost, repeated or late and changes nothing: workers claim jobs in the
database, and the dispatcher rings again for jobs that nobody has come for.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any, TypeVar

from celery import Celery
from kombu.exceptions import ChannelError, OperationalError

from app.settings import Settings

TASK_NAME = "eggs.prune"
_TIMEOUT_SECONDS = 2

T = TypeVar("T")

logger = logging.getLogger(__name__)


class BrokerDown(Exception):
    """The broker cannot be reached, or does not do what it is asked."""


def make_celery(settings: Settings) -> Celery:
    """The Celery app that the API sends with and that workers consume with."""
    celery = Celery("eggs", broker=settings.broker_url, set_as_current=False)
    celery.conf.update(
        task_default_queue=settings.queue_name,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # Acknowledged on receipt: a broker redelivers what stays unacknowledged for its visibility timeout, so
        # a long job would be started twice. The lease in the database brings a lost job back.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # however long the broker is away
        # A worker that is at a job holds the next message, unacknowledged. RabbitMQ closes the channel after half
        # an hour of that (its `consumer_timeout`), which would be the worker's end.
        broker_channel_error_retry=True,
        broker_connection_timeout=_TIMEOUT_SECONDS,
        task_publish_retry=False,
    )
    if settings.broker_url.startswith("filesystem:"):
        for folder in ("messages", "control"):
            (settings.broker_dir / folder).mkdir(parents=True, exist_ok=True)
        messages = str(settings.broker_dir / "messages")
        celery.conf.broker_transport = "app.filequeue:Transport"
        celery.conf.broker_transport_options = {
            "data_folder_in": messages,
            "data_folder_out": messages,
            "control_folder": str(settings.broker_dir / "control"),
        }
    elif settings.broker_url.startswith("redis"):
        from app import redisqueue  # what it takes to import, only its users wait for

        redisqueue.use()
        celery.conf.broker_transport_options = {
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            "socket_timeout": 5 * _TIMEOUT_SECONDS,
        }
    return celery


def ring(celery: Celery, job_id: str) -> bool:
    """Tells the workers of a job. A broker that is down fails nothing: the dispatcher rings again later."""
    try:
        with _connect(celery) as connection:
            celery.send_task(TASK_NAME, args=[job_id], connection=connection, ignore_result=True, retry=False)
    except BrokerDown as error:
        logger.warning("The broker cannot be reached; %s will be offered again: %s", job_id, error)
        return False
    return True


def waiting_messages(celery: Celery) -> int | None:
    """How many messages wait in the queue; None if the broker cannot be reached."""
    try:
        with _connect(celery) as connection:
            try:
                queue = connection.default_channel.queue_declare(celery.conf.task_default_queue, passive=True)
            except ChannelError:
                return 0  # nothing has ever been sent, or all of it was taken
            return int(queue.message_count)
    except BrokerDown:
        return None


class Doorbell:
    """The broker as requests ask it: in a thread of its own, and for no longer than a moment.

    One that takes connections and never answers would come to hold all threads that requests share.
    """

    def __init__(self, celery: Celery) -> None:
        self._celery = celery
        self._thread = ThreadPoolExecutor(1, "doorbell")

    async def ring(self, job_id: str) -> None:
        """As the function `ring`. What waits too long for those before it is not done."""
        if await self._ask(ring, job_id) is None:
            logger.warning("The broker does not answer; %s may have to be offered again", job_id)

    async def reaches_broker(self) -> bool:
        """Whether the broker answers."""
        return await self._ask(waiting_messages) is not None

    async def _ask(self, question: Callable[..., T], *arguments: Any) -> T | None:
        asked = self._thread.submit(copy_context().run, question, self._celery, *arguments)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(asked), _TIMEOUT_SECONDS)
        except TimeoutError:
            return None


@contextmanager
def _connect(celery: Celery) -> Iterator[Any]:
    """A connection; all that can go wrong on it, in its transport's own exceptions, is raised as `BrokerDown`."""
    connection = celery.connection_for_write()
    if connection.transport.driver_type == "amqp":
        # RabbitMQ that is short of memory or disk takes what is published, and reads none of it. Not in
        # `make_celery`: workers wait for messages, however long there are none.
        connection.transport_options = {"read_timeout": _TIMEOUT_SECONDS, "write_timeout": _TIMEOUT_SECONDS}
    failures = (OperationalError, OSError, *connection.connection_errors, *connection.channel_errors)
    try:
        with connection:
            # Without a bound, kombu retries for minutes, and a request would wait for it.
            connection.ensure_connection(max_retries=1, timeout=_TIMEOUT_SECONDS, interval_start=0)
            yield connection
    except failures as error:
        raise BrokerDown(str(error)) from error
