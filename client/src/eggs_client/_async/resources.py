"""Everything but jobs: files, keys, webhooks, the catalog, workers and the audit log."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Unpack

from eggs_client._async.transport import AsyncTransport, path
from eggs_client.local_files import place, sha256
from eggs_client.models import (
    AuditEntryResource,
    CreatedKey,
    DeliveryResource,
    FileResource,
    KeyResource,
    MethodResource,
    ModelResource,
    WebhookResource,
    WebhookWithSecret,
    WorkerResource,
)
from eggs_client.requests import KeyCreate, WebhookCreate, WebhookUpdate
from eggs_client.waiting import to_thread

_UNPACKING_SECONDS = 600
"""After the last byte of a model the service unpacks and checks it before it answers."""


class AsyncFiles:
    """`/v1/files`: models and texts of your own, for jobs."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def upload(self, file: str | Path, *, name: str | None = None) -> FileResource:
        """Sends a file as it is read, with its checksum; the service refuses it if it arrives damaged.

        Its name says what it holds: `.txt`, `.jsonl`, `.parquet`, or a model's folder as `.tar` or `.tar.gz`.
        """
        file = Path(file)
        checksum = await to_thread(sha256, file)
        with file.open("rb") as content:
            return await self._transport.post(
                FileResource,
                path("files"),
                data={"sha256": checksum},
                files={"file": (name or file.name, content)},
                timeout=self._transport.patient(_UNPACKING_SECONDS),
            )

    def list(self, *, limit: int | None = None) -> AsyncIterator[FileResource]:
        """The project's files, newest first."""
        return self._transport.pages(FileResource, path("files"), limit=limit)

    async def get(self, file_id: str) -> FileResource:
        """What is known of one file."""
        return await self._transport.get(FileResource, path("files", file_id))

    async def download(
        self, file: FileResource, folder: str | Path, *, on_bytes: Callable[[int], None] = lambda count: None
    ) -> Path:
        """Downloads a file as it came and verifies it; run again, it goes on where it broke off."""
        target = place(Path(folder), file.name)
        return await self._transport.download(
            file.url, target, total=file.bytes, checksum=file.sha256, on_bytes=on_bytes
        )

    async def delete(self, file_id: str) -> None:
        """Removes a file for good. Raises `Conflict` while a job uses it."""
        await self._transport.delete(path("files", file_id))


class AsyncKeys:
    """`/v1/keys`. Needs a key with the scope `admin`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **request: Unpack[KeyCreate]) -> CreatedKey:
        """A new key of the project; its `token` is in this answer and nowhere else."""
        return await self._transport.post(CreatedKey, path("keys"), json=request)

    def list(self) -> AsyncIterator[KeyResource]:
        """The project's keys, the oldest first."""
        return self._transport.pages(KeyResource, path("keys"))

    async def revoke(self, key_id: str) -> KeyResource:
        """Ends a key at once."""
        return await self._transport.post(KeyResource, path("keys", key_id, "revoke"), repeatable=True)


class AsyncWebhooks:
    """`/v1/webhooks`. Needs a key with the scope `admin`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def create(self, **request: Unpack[WebhookCreate]) -> WebhookWithSecret:
        """A new webhook; the `secret` that signs its messages is in this answer and nowhere else."""
        return await self._transport.post(WebhookWithSecret, path("webhooks"), json=request)

    def list(self, *, limit: int | None = None) -> AsyncIterator[WebhookResource]:
        """The project's webhooks, newest first."""
        return self._transport.pages(WebhookResource, path("webhooks"), limit=limit)

    async def get(self, webhook_id: str) -> WebhookResource:
        """One webhook, without its secret."""
        return await self._transport.get(WebhookResource, path("webhooks", webhook_id))

    async def update(self, webhook_id: str, **request: Unpack[WebhookUpdate]) -> WebhookResource:
        """Changes what is given."""
        return await self._transport.patch(WebhookResource, path("webhooks", webhook_id), json=request)

    async def delete(self, webhook_id: str) -> None:
        """Removes a webhook and its log; what was still to be sent is not."""
        await self._transport.delete(path("webhooks", webhook_id))

    async def rotate(self, webhook_id: str) -> WebhookWithSecret:
        """Gives a webhook a new secret; for a day messages are signed with the old one as well."""
        return await self._transport.post(WebhookWithSecret, path("webhooks", webhook_id, "secret"))

    async def ping(self, webhook_id: str) -> DeliveryResource:
        """Sends a message of type `webhook.ping`."""
        return await self._transport.post(DeliveryResource, path("webhooks", webhook_id, "ping"))

    def deliveries(
        self, webhook_id: str, *, state: str | None = None, limit: int | None = None
    ) -> AsyncIterator[DeliveryResource]:
        """What was sent to a webhook, newest first, and what became of it."""
        url = path("webhooks", webhook_id, "deliveries")
        return self._transport.pages(DeliveryResource, url, limit=limit, state=state)

    async def redeliver(self, webhook_id: str, delivery_id: str) -> DeliveryResource:
        """Sends a message again, under the same id."""
        url = path("webhooks", webhook_id, "deliveries", delivery_id, "redeliver")
        return await self._transport.post(DeliveryResource, url)


class AsyncCatalog:
    """What the installation offers."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def models(self) -> list[ModelResource]:
        """The models that can be pruned without a download."""
        return [model async for model in self._transport.pages(ModelResource, path("models"))]

    async def methods(self) -> list[MethodResource]:
        """The ways to choose the weights that stay."""
        return [method async for method in self._transport.pages(MethodResource, path("methods"))]


class AsyncAudit:
    """`/v1/audit`. Needs a key with the scope `admin`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> AsyncIterator[AuditEntryResource]:
        """What was done in the project, and with which key, newest first."""
        return self._transport.pages(AuditEntryResource, path("audit"), limit=limit)


class AsyncWorkers:
    """`/v1/workers`. Needs a key with the scope `admin`."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    def list(self) -> AsyncIterator[WorkerResource]:
        """The workers of the installation, the oldest first."""
        return self._transport.pages(WorkerResource, path("workers"))
