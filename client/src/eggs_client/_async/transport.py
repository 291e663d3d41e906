"""One service and one key over HTTP: tries again what may be, and raises problems as errors."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from eggs_client._version import __version__
from eggs_client.auth import KeyAuth
from eggs_client.errors import ApiError, Damaged, InvalidRequest, OutputExists, check, not_understood
from eggs_client.local_files import PARTIAL, is_whole, size
from eggs_client.retries import Patience, Retries
from eggs_client.waiting import async_sleep, to_thread

T = TypeVar("T", bound=BaseModel)

PAGE = 100
_CHUNK = 1 << 20


def path(*parts: str) -> str:
    """A path below `/v1`, each part as one. Raises `InvalidRequest` for what would lead elsewhere."""
    for part in parts:
        if part in ("", ".", ".."):
            raise InvalidRequest("The request cannot be sent", f"{part!r} is no id.")
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    data: list[T]
    has_more: bool
    last_id: str | None


def understood(model: type[T], response: httpx.Response, content: bytes | str | None = None) -> T:
    """The answer, or this content of it. Raises `ApiError` where it is none of an eggs service."""
    try:
        return model.model_validate_json(response.content if content is None else content)
    except ValueError as error:
        raise not_understood(response) from error


class AsyncTransport:
    """What all resources send their requests with."""

    def __init__(self, url: httpx.URL, api_key: str, timeout: float | httpx.Timeout, retries: Retries) -> None:
        self.http = httpx.AsyncClient(
            base_url=url,
            auth=KeyAuth(url, api_key),
            headers={"User-Agent": f"eggs-client/{__version__}"},
            timeout=timeout,
        )
        self._retries = retries

    def patience(self, seconds: float | None = None) -> Patience:
        """For a stream or download, unless `seconds` says how long."""
        return Patience(
            self._retries, self._retries.stream_seconds if seconds is None else seconds, str(self.http.base_url)
        )

    def patient(self, seconds: float) -> httpx.Timeout:
        """The usual timeout, but that the service may be silent for so long."""
        return httpx.Timeout(**(self.http.timeout.as_dict() | {"read": seconds}))

    async def request(
        self, method: str, url: str, *, repeatable: bool | None = None, **arguments: Any
    ) -> httpx.Response:
        """The answer, of 2xx. Raises `ApiError`, `Unreachable` or `InvalidRequest`.

        By default a POST is not repeatable: it is sent again only where it has surely not arrived.
        """
        repeatable = method != "POST" if repeatable is None else repeatable
        patience = self.patience(self._retries.seconds)
        while True:
            try:
                response = await self.http.send(self._made(method, url, **arguments))
                check(response)
                return response
            except (httpx.TransportError, ApiError) as error:
                await async_sleep(patience.pause(error, repeatable=repeatable))

    def _made(self, method: str, url: str, **arguments: Any) -> httpx.Request:
        try:
            return self.http.build_request(method, url, **arguments)
        except (ValueError, TypeError) as error:  # NaN, and what JSON has no form for
            raise InvalidRequest("The request cannot be sent", f"{error}.") from error

    async def get(self, model: type[T], url: str, **arguments: Any) -> T:
        """The answer to a GET."""
        return understood(model, await self.request("GET", url, **arguments))

    async def post(self, model: type[T], url: str, **arguments: Any) -> T:
        """The answer to a POST."""
        return understood(model, await self.request("POST", url, **arguments))

    async def patch(self, model: type[T], url: str, **arguments: Any) -> T:
        """The answer to a PATCH."""
        return understood(model, await self.request("PATCH", url, **arguments))

    async def submit(self, model: type[T], url: str, request: Any, idempotency_key: str | None) -> T:
        """The answer to a POST that may be sent again: the service knows it by its key."""
        key = idempotency_key or uuid.uuid4().hex
        if not (key.isascii() and key.isprintable()):
            raise InvalidRequest(
                "The request cannot be sent",
                f"An Idempotency-Key has printable ASCII characters alone, unlike {key!r}.",
            )
        headers = {"Idempotency-Key": key}
        return await self.post(model, url, json=request, headers=headers, repeatable=True)

    async def delete(self, url: str) -> None:
        """Deletes. What is not there any more at a second try was deleted by the first."""
        patience = self.patience(self._retries.seconds)
        tried = False
        while True:
            try:
                check(await self.http.request("DELETE", url))
                return
            except (httpx.TransportError, ApiError) as error:
                if tried and isinstance(error, ApiError) and error.status == 404:
                    return
                await async_sleep(patience.pause(error, repeatable=True))
                tried = True

    async def pages(
        self, model: type[T], url: str, *, limit: int | None = None, **filters: str | None
    ) -> AsyncIterator[T]:
        """Up to `limit` of a list's entries, page by page as they are asked for."""
        params: dict[str, Any] = {name: value for name, value in filters.items() if value is not None}
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = await self.get(Page[model], url, params=params | {"limit": size})  # type: ignore[valid-type]
            for entry in page.data:
                yield entry
                left = None if left is None else left - 1
            if not page.has_more:
                return
            params["after"] = page.last_id

    @asynccontextmanager
    async def stream(
        self, url: str, headers: dict[str, str], *, timeout: Any = None
    ) -> AsyncIterator[httpx.Response]:
        """The answer to a GET as it comes; redirects are followed, without the key. Raises `ApiError`."""
        options = {} if timeout is None else {"timeout": timeout}
        async with self.http.stream("GET", url, headers=headers, follow_redirects=True, **options) as response:
            if not response.is_success:
                await response.aread()
            check(response)
            yield response

    async def download(
        self, url: str, target: Path, *, total: int, checksum: str, on_bytes: Callable[[int], None]
    ) -> Path:
        """Downloads a file and verifies it; goes on with what is there already.

        `on_bytes` is called with the bytes of the file that are there, each time there are more. Raises `Damaged`,
        `OutputExists`, `ApiError` or `Unreachable`.
        """
        if await to_thread(is_whole, target, checksum):
            on_bytes(total)
            return target
        if target.exists():
            raise OutputExists(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}{PARTIAL}")
        patience = self.patience()
        while not partial.exists() or size(partial) < total:
            there = size(partial)
            # As it is: an object store might compress what it sends.
            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={there}-"} if there else {})
            try:
                async with self.stream(url, headers) as response:
                    with partial.open("ab" if response.status_code == 206 else "wb") as file:
                        async for chunk in response.aiter_raw(_CHUNK):
                            file.write(chunk)
                            on_bytes(file.tell())
                            patience.renew()
                            if file.tell() > total:
                                break
                break  # all that there is has come, whether it is what was announced or not
            except (httpx.TransportError, ApiError) as error:
                await async_sleep(patience.pause(error, repeatable=True))
        if not await to_thread(is_whole, partial, checksum):
            partial.unlink()
            raise Damaged(target.name)
        return partial.replace(target)
