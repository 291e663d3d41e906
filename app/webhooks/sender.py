"""One attempt to send a message: bounded in time, to an address that was checked, and following nothing."""

import ssl
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpcore
import httpx

from app.webhooks.addresses import AddressRefused, resolve

SECONDS = 15.0
"""That an attempt may take, whatever the other side does."""
# Time for one of a host's addresses, so that some is left for the next.
_CONNECT_SECONDS = 5.0
# The answer's body is of no interest; a little of it is taken, so that servers can finish in peace.
_MOST_OF_BODY = 1 << 16


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an attempt: the status of the answer if there was one, and what was wrong."""

    status: int | None = None
    error: str | None = None


class Sender:
    """Sends messages, one connection for each. Takes no proxy from the environment."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Posts the body, and raises nothing that the other side can cause."""
        backend = _Backend(time.monotonic() + SECONDS, allow_private=self._allow_private)
        fields = {"Host": httpx.URL(url).netloc.decode(), **headers}
        pool = httpcore.ConnectionPool(ssl_context=self._context, network_backend=backend)
        try:
            with pool, pool.stream("POST", url, headers=list(fields.items()), content=body) as response:
                with suppress(httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
                    _take(response)
                return Outcome(response.status, _complaint(response.status))
        except AddressRefused as error:
            return Outcome(error=str(error))
        except httpcore.TimeoutException:
            return Outcome(error=f"There was no answer within {SECONDS:g} seconds.")
        except httpcore.NetworkError as error:
            return Outcome(error=f"The connection failed: {error}"[:255])
        except httpcore.ProtocolError:
            return Outcome(error="The connection ended without an answer in HTTP.")

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return httpx.create_ssl_context()


class _Backend(httpcore.NetworkBackend):
    """Connects to an address that was checked, where httpcore would ask for the name once more.

    Certificates are still checked for the name, and the server is still told the name: both are up to httpcore.
    """

    def __init__(self, deadline: float, *, allow_private: bool) -> None:
        self._deadline = deadline
        self._allow_private = allow_private
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that answers. Raises `AddressRefused` and httpcore's errors."""
        failure: Exception | None = None
        for address in resolve(host, port, allow_private=self._allow_private):
            try:
                seconds = min(_left(self._deadline), _CONNECT_SECONDS)
                stream = self._sockets.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self._deadline)
        assert failure is not None
        raise failure


class _Stream(httpcore.NetworkStream):
    """A connection that ends at a deadline, however little comes at a time."""

    def __init__(self, stream: httpcore.NetworkStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(self._deadline))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(self._deadline))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, _left(self._deadline)), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


def _left(deadline: float) -> float:
    if (left := deadline - time.monotonic()) <= 0:
        raise httpcore.ReadTimeout
    return left


def _take(response: httpcore.Response) -> None:
    taken = 0
    for piece in response.iter_stream():
        taken += len(piece)
        if taken > _MOST_OF_BODY:
            return


def _complaint(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return f"The answer was {status}; redirects are not followed."
    return f"The answer was {status}."
