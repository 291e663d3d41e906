"""HTTP as uvicorn speaks it, with bounds on the head of a request, which it takes without any, and an end."""

from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.problem_handlers import answer_to

HEAD_SECONDS = 30.0
"""From the start of a connection, or of a further request on it, to the end of the headers."""
MAX_HEAD_BYTES = 64 << 10
"""Of a head that comes in pieces; what comes at once is a quarter of a megabyte at most."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 408 where the headers of a request have not come in time, and 431 where they have no end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deadline: TimerHandle | None = None  # there while a head is awaited
        self._head_bytes = 0
        self._begun = False

    def connection_made(self, transport: BaseTransport) -> None:
        """Takes a connection."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request."""
        self._begun = False
        super().data_received(data)
        if self._deadline is not None and not self._begun:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """Hears that a request begins."""
        super().on_message_begin()
        self._begun = True
        self._head_bytes = 0
        if self._deadline is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Hears that its headers are there."""
        self._forget_head()
        super().on_headers_complete()

    def shutdown(self) -> None:
        """Ends what would go on for as long as a job does, where the server stops."""
        self.app_state["watch"].stop()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets go of a connection."""
        self._forget_head()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._refuse, HTTPStatus.REQUEST_TIMEOUT)

    def _forget_head(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, status: HTTPStatus) -> None:
        self._forget_head()
        if self.transport.is_closing():
            return
        answer = answer_to(HTTPException(status, headers={"Connection": "close"}))
        head = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        head += [name + b": " + value for name, value in answer.raw_headers]
        self.transport.write(b"\r\n".join([*head, b"", answer.body]))
        self.transport.close()
