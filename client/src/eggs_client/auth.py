"""Sends the API key, and to the service alone."""

from collections.abc import Generator

import httpx

from eggs_client.errors import InvalidConfiguration


class KeyAuth(httpx.Auth):
    """Adds the key to requests that go to the service itself; another host, as in a redirect, is not shown it."""

    def __init__(self, service: httpx.URL, api_key: str) -> None:
        self._origin = _origin(service)
        self._header = f"Bearer {api_key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if _origin(request.url) == self._origin:
            request.headers["Authorization"] = self._header
        yield request


def checked_url(text: str) -> httpx.URL:
    """The service's address. Raises `InvalidConfiguration`."""
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidConfiguration(
            "The address is not valid",
            f"{text!r} is no address of a service. Set base_url or EGGS_URL to one such as http://127.0.0.1:8000.",
        )
    return url


def checked_key(text: str) -> str:
    """The key. Raises `InvalidConfiguration`, which does not repeat it."""
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidConfiguration(
            "The API key is not valid" if text else "There is no API key",
            "Set api_key or EGGS_API_KEY to the whole key, as `eggs keys create` printed it.",
        )
    return text


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
