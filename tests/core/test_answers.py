"""What becomes of an answer, and of its text where it ends at a stop."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from eggs_core.answers import Answer, Cut


@pytest.mark.parametrize(
    ("parts", "stops", "expected"),
    [
        (["one ", "two"], [], ["one ", "two", ""]),
        (["one E", "N", "D two"], ["END"], ["one ", "", "", ""]),
        (["one E", "N", "one"], ["END"], ["one ", "", "ENone", ""]),
        (["one EN"], ["END"], ["one ", "EN"]),
        (["aab", "ab"], ["aabab"], ["", "", ""]),
        (["aaa", "b"], ["aab"], ["a", "", ""]),
        (["a b c"], ["c", "b"], ["a ", ""]),
    ],
)
def test_cut(parts: Sequence[str], stops: Sequence[str], expected: Sequence[str]) -> None:
    cut = Cut(stops)
    assert [*map(cut.feed, parts), cut.rest()] == expected


def answered(*events: str) -> tuple[int, Any]:
    """Status and body of what a client gets that asked for no stream."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def serve() -> None:
        answer = Answer(send, "model", ["END"], streams=False, usage_last=False)
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await answer.send({"type": "http.response.start", "status": 200, "headers": headers})
        for event in events:
            await answer.send(
                {"type": "http.response.body", "body": f"data: {event}\n\n".encode(), "more_body": True}
            )
        await answer.send({"type": "http.response.body", "body": b"", "more_body": False})

    asyncio.run(serve())
    start, body = sent
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    return start["status"], json.loads(body["body"])


def test_a_chat_that_calls_tools_is_put_together() -> None:
    call = {"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    deltas = [
        {"role": "assistant"},
        {"reasoning_content": "I "},
        {"reasoning_content": "think"},
        {"tool_calls": [call]},
    ]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "/path@main"}
    status, answer = answered(*(json.dumps(chunk | {"choices": [choice]}) for choice in choices))
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", "model")
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I think",
        "tool_calls": [{name: call[name] for name in ("id", "type", "function")}],
    }


def test_an_error_amid_a_stream_is_told() -> None:
    """Whose text the server does not escape."""
    status, answer = answered('{"error": "there is no "such" thing"}')
    assert (status, answer["error"]["message"]) == (500, 'there is no "such" thing')
