"""Refuses request bodies that are larger, or come more slowly, than any request here needs."""

import asyncio
from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 20
"""More than any request needs but an upload; and more than one has around its file."""
BODY_SECONDS = 30.0
"""More than any such body takes to come."""


class BodyLimit:
    """Ends a request with 413 as soon as its body exceeds `most` bytes, or those of its path in `more`.

    And with 408 where the body has not come in time; the paths in `more` see to that themselves. FastAPI's own
    limit answers in plain text; this one leaves the answer to the problem handlers.
    """

    def __init__(self, app: ASGIApp, most: int, more: Mapping[str, int]) -> None:
        self.app = app
        self.most = most
        self.more = more

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        most = self.more.get(scope.get("path", ""), self.most)

        async def limited() -> Message:
            nonlocal received, complete
            # Once the body is there, the next message is the end of the connection, however late it comes.
            untimed = complete or scope.get("path") in self.more
            try:
                async with asyncio.timeout_at(None if untimed else deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, headers={"Connection": "close"}) from None
            complete = not message.get("more_body", False)
            received += len(message.get("body", b""))
            if received > most:
                raise HTTPException(413, headers={"Connection": "close"})  # the rest is not read
            return message

        await self.app(scope, limited, send)
