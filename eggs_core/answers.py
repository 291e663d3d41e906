"""What transformers' server answers, made what OpenAI's does.

It names the model by its path, leaves the text that ended an answer in it, and ends streams in a way of its own.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import Message, Send

_END = b"\n\n"


class Cut:
    """Text as it comes, up to the first of some stops."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self._found = False

    def feed(self, text: str) -> str:
        """What surely comes before a stop. Any end that may be the beginning of one is held back."""
        if self._found:
            return ""
        text = self._held + text
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            self._found, self._held = True, ""
            return text[: min(places)]
        begun = [n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
        kept = len(text) - max(begun, default=0)
        self._held = text[kept:]
        return text[:kept]

    def rest(self) -> str:
        """What was held back and turned out to begin no stop."""
        held, self._held = self._held, ""
        return held


class Answer:
    """Sends on what the server sends for one request."""

    def __init__(self, send: "Send", model: str, stops: Sequence[str], *, usage_last: bool) -> None:
        self._send = send
        self._model = model
        self._cut = Cut(stops)
        self._usage_last = usage_last
        self._start: Message | None = None  # held back until the length of the body is known
        self._streams = False
        self._content = b""

    async def send(self, message: "Message") -> None:
        """In the server's place of ASGI's `send`."""
        if message["type"] == "http.response.start":
            kind = dict(message["headers"]).get(b"content-type", b"")
            self._streams = kind.startswith(b"text/event-stream")
            if self._streams or message["status"] != 200:
                await self._send(message)
            else:
                self._start = message
        elif self._streams:
            await self._stream(message)
        elif self._start is not None:
            await self._whole(self._start, message)
        else:
            await self._send(message)

    async def _whole(self, start: "Message", message: "Message") -> None:
        self._content += message.get("body", b"")
        if message.get("more_body", False):
            return
        answer = json.loads(self._content) | {"model": self._model}
        for choice in answer["choices"]:
            holder, name = _text_of(choice, "message")
            if holder.get(name):
                holder[name] = self._cut.feed(holder[name]) + self._cut.rest()
        body = json.dumps(answer).encode()
        headers = [(name, value) for name, value in start["headers"] if name != b"content-length"]
        await self._send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: "Message") -> None:
        *events, self._content = (self._content + message.get("body", b"")).split(_END)
        more = message.get("more_body", False)
        chunks = [chunk for event in events for chunk in self._chunks(event.removeprefix(b"data: "))]
        body = b"".join(b"data: " + json.dumps(chunk).encode() + _END for chunk in chunks)
        if not more:
            body += b"data: [DONE]" + _END
        await self._send({**message, "body": body, "more_body": more})

    def _chunks(self, data: bytes) -> list[dict[str, Any]]:
        """What a chunk of the server becomes."""
        try:
            chunk = json.loads(data) | {"model": self._model}
            (choice,) = chunk["choices"]
        except (ValueError, KeyError):  # an error, whose text the server does not escape
            text = data.decode(errors="replace").removeprefix('{"error": "').removesuffix('"}')
            return [{"error": {"message": text, "type": "server_error", "param": None, "code": None}}]
        holder, name = _text_of(choice, "delta")
        text = self._cut.feed(holder.get(name) or "")
        ended = choice.get("finish_reason") is not None
        if ended:
            text += self._cut.rest()
        if text or holder.get(name):
            holder[name] = text
        if ended and self._usage_last:
            usage = chunk.pop("usage", None)
            return [chunk, {**chunk, "choices": [], "usage": usage}]
        return [chunk]


def _text_of(choice: dict[str, Any], chat: str) -> tuple[dict[str, Any], str]:
    """Where the text of a choice stands; in a chat, in its `chat`."""
    return (choice, "text") if "text" in choice else (choice.setdefault(chat, {}), "content")
