"""What transformers' server answers, made what OpenAI's does.

It names the model by its path, leaves the text that ended an answer in it, and ends streams in a way of its own.
For clients that have gone it stops only where it streams: so it always does.
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

    def __init__(self, send: "Send", model: str, stops: Sequence[str], *, streams: bool, usage_last: bool) -> None:
        self._send = send
        self._model = model
        self._cut = Cut(stops)
        self._streams = streams
        self._usage_last = usage_last
        self._start: Message | None = None  # that of a stream
        self._content = b""
        self._received: list[dict[str, Any]] = []

    async def send(self, message: "Message") -> None:
        """In the server's place of ASGI's `send`."""
        if message["type"] == "http.response.start":
            if dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream"):
                self._start = message
            if self._start is None or self._streams:
                await self._send(message)
        elif self._start is None:  # an error
            await self._send(message)
        elif self._streams:
            await self._stream(message)
        else:
            self._received += self._chunks_of(message)
            if not message.get("more_body", False):
                await self._whole(self._start)

    async def _whole(self, start: "Message") -> None:
        *_, last = self._received
        status, answer = (500, last) if "error" in last else (200, _joined(self._received))
        body = json.dumps(answer).encode()
        kept = [(name, value) for name, value in start["headers"] if not name.startswith(b"content-")]
        new = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({**start, "status": status, "headers": [*kept, *new]})
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, message: "Message") -> None:
        more = message.get("more_body", False)
        body = b"".join(b"data: " + json.dumps(chunk).encode() + _END for chunk in self._chunks_of(message))
        if not more:
            body += b"data: [DONE]" + _END
        await self._send({**message, "body": body, "more_body": more})

    def _chunks_of(self, message: "Message") -> list[dict[str, Any]]:
        *events, self._content = (self._content + message.get("body", b"")).split(_END)
        return [chunk for event in events for chunk in self._chunks(event.removeprefix(b"data: "))]

    def _chunks(self, data: bytes) -> list[dict[str, Any]]:
        """What a chunk of the server becomes."""
        try:
            chunk = json.loads(data) | {"model": self._model}
            (choice,) = chunk["choices"]
        except (ValueError, KeyError):  # an error, whose text the server does not escape
            text = data.decode(errors="replace").removeprefix('{"error": "').removesuffix('"}')
            return [{"error": {"message": text, "type": "server_error", "param": None, "code": None}}]
        holder, name = (choice, "text") if "text" in choice else (choice["delta"], "content")
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


def _joined(chunks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The answer that was given in these chunks."""
    *_, last = chunks
    choices = [chunk["choices"][0] for chunk in chunks]
    choice = {"index": 0, "logprobs": None, "finish_reason": choices[-1].get("finish_reason")}
    if last["object"] == "text_completion":
        return last | {"choices": [choice | {"text": "".join(part["text"] for part in choices)}]}
    deltas = [part["delta"] for part in choices]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(part.get("content") or "" for part in deltas),
    }
    if reasoning := "".join(part.get("reasoning_content") or "" for part in deltas):
        message["reasoning_content"] = reasoning
    if calls := [call for part in deltas for call in part.get("tool_calls") or ()]:
        message["tool_calls"] = [{name: call[name] for name in ("id", "type", "function")} for call in calls]
        message["content"] = message["content"] or None
    return last | {"object": "chat.completion", "choices": [choice | {"message": message}]}
