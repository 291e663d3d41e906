"""The client: one service and one key."""

import os
from types import TracebackType
from typing import Self

import httpx

from eggs_client._async.jobs import AsyncJobs
from eggs_client._async.resources import (
    AsyncAudit,
    AsyncCatalog,
    AsyncFiles,
    AsyncKeys,
    AsyncWebhooks,
    AsyncWorkers,
)
from eggs_client._async.sweeps import AsyncSweeps
from eggs_client._async.transport import AsyncTransport
from eggs_client.auth import checked_key, checked_url
from eggs_client.retries import Retries

DEFAULT_URL = "http://127.0.0.1:8000"


class AsyncEggs:
    """A pruning service, with an API key.

    `base_url` and `api_key` are those of `EGGS_URL` and `EGGS_API_KEY` unless given. `timeout` is for how many
    seconds the service may be silent; it has to be more than 15, after which a stream without events shows that it
    is alive. Raises `InvalidConfiguration`.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float | httpx.Timeout = 45,
        retries: Retries | None = None,
    ) -> None:
        url = checked_url(os.environ.get("EGGS_URL", DEFAULT_URL) if base_url is None else base_url)
        key = checked_key(os.environ.get("EGGS_API_KEY", "") if api_key is None else api_key)
        self._transport = AsyncTransport(url, key, timeout, Retries() if retries is None else retries)
        self.jobs = AsyncJobs(self._transport)
        self.sweeps = AsyncSweeps(self._transport, self.jobs)
        self.files = AsyncFiles(self._transport)
        self.keys = AsyncKeys(self._transport)
        self.webhooks = AsyncWebhooks(self._transport)
        self.catalog = AsyncCatalog(self._transport)
        self.audit = AsyncAudit(self._transport)
        self.workers = AsyncWorkers(self._transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._transport.http.aclose()
