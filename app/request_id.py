"""The id of a request: in each line that is logged for it, and in its answer."""

import asyncio
import re

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.ids import new_id
from app.problem_handlers import answer_to

HEADER = "X-Request-ID"
# What clients and proxies make: UUIDs, ULIDs, trace ids. All else is replaced.
_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestId:
    """Takes the id that the client or a proxy has sent, or makes one.

    It also answers what no handler has: Starlette's own last resort is outside of every middleware, so that its
    answers would lack this header and those that protect browsers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _SANE.fullmatch(given) else new_id("req")
        logs.bind(request_id=request_id)  # to the end of its task: the server's own lines come after this call
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except asyncio.CancelledError:
            # The server stops, and has waited as long as it does. It would answer with a 500 of its own.
            if not started:
                stopping = HTTPException(503, headers={"Retry-After": "5", "Connection": "close"})
                await answer_to(stopping)(scope, receive, answer)
        except Exception as error:
            if started:
                raise
            await answer_to(error)(scope, receive, answer)
