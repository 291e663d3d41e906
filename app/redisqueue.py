"""The queue on Redis: kombu's transport, whose workers outlive a Redis that goes away.

A worker that is at a job holds the next message, and no more than that one. When it comes to that one while Redis
is away, kombu cannot acknowledge it, logs so and goes on, but counts it as held for ever: the worker never asks
for another message, also once Redis is back.
"""

from kombu.transport import TRANSPORT_ALIASES, redis, virtual


class QoS(redis.QoS):
    """Counts the messages that a worker holds."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledges a message, which is not held from then on, be Redis there or not.

        One that Redis does not know to be acknowledged it gives to a worker again.

        Raises:
            kombu's `connection_errors` if Redis is away.
        """
        try:
            super().ack(delivery_tag)  # type: ignore[no-untyped-call]
        except self.channel.connection_errors:
            virtual.QoS.ack(self, delivery_tag)  # type: ignore[no-untyped-call]
            raise


class Channel(redis.Channel):
    """A channel that counts with the above."""

    QoS = QoS


class Transport(redis.Transport):
    """kombu's transport with our channel."""

    Channel = Channel


def use() -> None:
    """Has `redis://` and `rediss://` mean this transport."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
