"""Refuses request bodies that are larger than any request here needs, without reading them to the end."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
"""More than any request needs but an upload; and more than one has around its file."""


class BodyLimit:
    """Ends a request with 413 as soon as its body exceeds `most` bytes, or those of its path in `more`.

    FastAPI's own limit answers in plain text; this one leaves the answer to the problem handlers.
    """

    def __init__(self, app: ASGIApp, most: int, more: Mapping[str, int]) -> None:
        self.app = app
        self.most = most
        self.more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        received = 0
        most = self.more.get(scope.get("path", ""), self.most)

        async def limited() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, headers={"Connection": "close"})  # the rest is not read
            return message

        await self.app(scope, limited, send)
