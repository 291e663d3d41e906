"""When a request is tried again, and after which pause."""

import random
import ssl
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from eggs_client.errors import ApiError, Unreachable

_MAY_PASS = {429, 502, 503, 504}
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Retries:
    """For how long something is tried again that may work the next time; pauses double from the first on."""

    seconds: float = 10
    """For a single request."""
    stream_seconds: float = 60
    """For a stream of events or a download: since it last had anything."""
    first_pause: float = 0.5
    longest_pause: float = 8


class Patience:
    """What is left of the time for one request, stream or download."""

    def __init__(self, retries: Retries, seconds: float, url: str) -> None:
        self._retries = retries
        self._seconds = seconds
        self._url = url
        self.renew()

    def renew(self) -> None:
        """Something has come: the time begins anew."""
        self._deadline = time.monotonic() + self._seconds
        self._pause = self._retries.first_pause

    def pause(self, error: httpx.TransportError | ApiError, *, repeatable: bool) -> float:
        """The seconds to wait before another try. Raises where none is to be made: `ApiError` or `Unreachable`.

        What is not repeatable is sent again only where the service has surely not begun with it.
        """
        seconds = self._pause * random.uniform(0.5, 1)  # noqa: S311
        if isinstance(error, ApiError):
            if error.status not in _MAY_PASS or not (repeatable or error.status == 429):
                raise error
            seconds = max(seconds, _retry_after(error))
        elif _stays(error) or not (repeatable or isinstance(error, _NEVER_SENT)):
            raise self._unreachable(error) from error
        if time.monotonic() + seconds > self._deadline:
            raise error if isinstance(error, ApiError) else self._unreachable(error) from error
        self._pause = min(2 * self._pause, self._retries.longest_pause)
        return seconds

    def _unreachable(self, error: httpx.TransportError) -> Unreachable:
        return Unreachable(self._url, error, sent=not isinstance(error, (*_NEVER_SENT, httpx.UnsupportedProtocol)))


def _stays(error: BaseException | None) -> bool:
    """Whether it would come again, as where TLS fails, which httpx tells by the cause of its own error."""
    if isinstance(error, (httpx.UnsupportedProtocol, ssl.SSLError)):
        return True
    return error is not None and _stays(error.__cause__ or error.__context__)


def _retry_after(error: ApiError) -> float:
    """What the service asks for, as seconds or as a date."""
    text = error.headers.get("Retry-After", "0")
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # no date, or one without a time zone
        return 0
