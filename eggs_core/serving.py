"""Serves a model as OpenAI's clients ask, by the server that transformers has.

Before it stands what such clients rely on and it lacks: a list of the model under names that a user can know,
sampling at a temperature, an end of what is generated where the model's positions end, and errors in their form.
After it comes what `answers` makes of what it says. What it serves besides is for nobody: it would load any model.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eggs_core.answers import Answer
from eggs_core.errors import BrokenCheckpoint, SequenceTooLong, ServingNotInstalled
from eggs_core.listener import bound

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_COMPLETIONS, _CHAT = "/v1/completions", "/v1/chat/completions"
# As many as transformers' server generates where a request does not say.
_NEW_TOKENS = 1024
# What would be left out without a word, and the values that ask for nothing.
_NOT_THERE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),  # what transformers makes of it multiplies, and does not count
    "suffix": (),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "functions": ([],),
    "function_call": ("auto", "none"),
    "tool_choice": ("auto", "none"),
}
# Where there are tools, whose calls are as the model makes them.
_NOT_THERE_WITH_TOOLS: Mapping[str, tuple[Any, ...]] = {"tool_choice": ("auto",), "parallel_tool_calls": (True,)}
# Logits, which are no more than thousands, are divided by it, and overflow below 1e-35.
_LEAST_TEMPERATURE = 1e-6
# More than any token has.
_DIGITS = 10
# Seeds and lengths have 64 bits in torch.
_MOST_WHOLE = 2**63 - 1
_STOP_SECONDS = 5


def check_installed() -> None:
    """Raises `ServingNotInstalled` where transformers' server, or what it needs, is missing."""
    try:
        import transformers.cli.serve  # noqa: F401
        from transformers.utils.import_utils import is_serve_available
    except ImportError as error:
        raise ServingNotInstalled from error
    if not is_serve_available():
        raise ServingNotInstalled


def serve(folder: Path, host: str, port: int, listening: Callable[[str], None]) -> None:
    """Serves the model in `folder`, packed or not, until the process is told to stop.

    Calls `listening` with the address for clients once requests can be sent there. Raises `BrokenCheckpoint` as
    `eggs_core.whole.load` does, or `CannotListen`.
    """
    listener = bound(host, port)
    from transformers.cli.serve import Serve

    from eggs_core.whole import check

    check(folder)  # of what is damaged transformers says nothing that helps, or makes weights up
    _check_architecture(folder)

    class _Serve(Serve):
        def start_server(self) -> None:
            """Not in a thread, and on a port that listens before the address is told."""
            config = self.server.config
            config.app = _Front(config.app, folder)
            config.timeout_graceful_shutdown = _STOP_SECONDS  # what is being generated may take for ever
            listener.listen()
            host, port, *_ = listener.getsockname()
            listening(f"http://{host}:{port}/v1")
            self.server.run([listener])

    _Serve(force_model=str(folder.absolute()), host=host, port=port, non_blocking=True)


def _check_architecture(folder: Path) -> None:
    """Raises `BrokenCheckpoint` where config.json does not name a model that generates: transformers' server takes
    the class that is named there, and no other."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    found = getattr(transformers, str(next(iter(config.architectures or ()), None)), None)
    if found is None or not found.can_generate():
        raise BrokenCheckpoint(
            "config.json names no model that generates text as the first of its architectures. Copy that of the "
            "original model again."
        )


class _RefusedError(Exception):
    """A request that cannot be answered; what the client is told."""

    def __init__(self, message: str, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class _Front:
    """Stands before transformers' application, which it gives requests that that one understands."""

    def __init__(self, app: Any, folder: Path) -> None:
        from starlette.exceptions import HTTPException
        from transformers import AutoConfig, AutoTokenizer, GenerationConfig

        self._app: ASGIApp = app
        self._name, self._pinned = os.path.basename(os.path.abspath(folder)), str(folder.absolute())
        known = (self._name, str(folder), self._pinned)
        self._names = (None, *known, *(f"{name}@main" for name in known))
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        self._config = AutoConfig.from_pretrained(folder, **options)
        try:
            self._settings = GenerationConfig.from_pretrained(folder)
        except OSError:  # it has none
            self._settings = GenerationConfig.from_model_config(self._config)
        app.add_exception_handler(HTTPException, _answer)
        app.add_exception_handler(Exception, _answer)

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answers a request, or has it answered."""
        from fastapi.requests import Request
        from fastapi.responses import JSONResponse

        if scope["type"] != "http" or (scope["method"], scope["path"]) == ("GET", "/health"):
            await self._app(scope, receive, send)
            return
        request, path = Request(scope, receive), scope["path"]
        try:
            if scope["method"] == "POST" and path in (_COMPLETIONS, _CHAT):
                body = self._understood(await request.body(), path)
                streams = bool(body.get("stream"))
                usage_last = streams and bool((body.get("stream_options") or {}).get("include_usage"))
                answer = Answer(send, self._name, body["stop"] or [], streams=streams, usage_last=usage_last)
                content = json.dumps(body | {"stream": True}).encode()
                await self._app(_with_length(scope, len(content)), _repeated(content, receive), answer.send)
            else:
                await JSONResponse(self._models(scope["method"], path))(scope, receive, send)
        except _RefusedError as refusal:
            await _answer(request, refusal)(scope, receive, send)

    def _models(self, method: str, path: str) -> dict[str, Any]:
        """The list of models, or the model in it that a path names. Raises `_RefusedError`."""
        model = {"id": self._name, "object": "model", "created": 0, "owned_by": "eggs"}
        if (method, path) == ("GET", "/v1/models"):
            return {"object": "list", "data": [model]}
        if method == "GET" and path.removeprefix("/v1/models/") in self._names:
            return model
        raise _RefusedError(f"There is no {method} {path} here.", status=404)

    def _understood(self, content: bytes, path: str) -> dict[str, Any]:
        """The request's body as transformers takes it. Raises `_RefusedError`."""
        from eggs_core.construction import most_new_tokens

        try:
            body = json.loads(content)
            json.dumps(body, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise _RefusedError("The body has half of a surrogate pair, which is no text.") from error
        except (ValueError, RecursionError):  # the latter where it is nested too deep
            body = None
        if not isinstance(body, dict):
            raise _RefusedError("The body is no JSON object.")
        if body.get("model") not in self._names:
            raise _RefusedError(
                f"There is no model {body['model']!r} here, only {self._name!r}.", "model_not_found", 404
            )
        not_there = {**_NOT_THERE, **(_NOT_THERE_WITH_TOOLS if body.get("tools") else {})}
        if path == _COMPLETIONS:
            not_there |= {"logit_bias": ({},), "logprobs": ()}  # where 0 asks for that of each token
        for name, harmless in not_there.items():
            if body.get(name) is not None and body[name] not in harmless:
                raise _RefusedError(f"{name} is not supported.")
        if not isinstance(body.get("stream") or False, bool) or not _is_object(body, "stream_options"):
            raise _RefusedError("stream must be true or false, and stream_options an object.")
        if path == _CHAT:
            body["messages"] = _messages(body)
        prompt = self._prompt(body, path)
        temperature = _number(body, "temperature", 0, sys.float_info.max)
        if temperature and temperature < _LEAST_TEMPERATURE:
            raise _RefusedError(f"temperature must be 0, or at least {_LEAST_TEMPERATURE}.")
        top_p = _number(body, "top_p", 0, 1)
        _number(body, "seed", -_MOST_WHOLE, _MOST_WHOLE, whole=True)
        _check_settings(body.get("generation_config"))
        samples = top_p not in (None, 1) if temperature is None else temperature > 0
        if samples and body.get("generation_config") is None:  # it never begins to sample by itself
            settings = self._settings.to_diff_dict() | {"do_sample": True}
            body["generation_config"] = json.dumps(settings)
        # Of what is empty transformers makes an error.
        body["stop"] = _stop(body) or None
        if path == _CHAT:
            body["logit_bias"] = self._logit_bias(body.get("logit_bias") or {}) or None
        asked = [
            _number(body, name, 1, _MOST_WHOLE, whole=True) for name in ("max_completion_tokens", "max_tokens")
        ]
        body.pop("max_completion_tokens", None)
        new_tokens = next((int(number) for number in asked if number is not None), _NEW_TOKENS)
        try:
            new_tokens = most_new_tokens(self._config, prompt, new_tokens)
        except SequenceTooLong as error:
            raise _RefusedError(str(error), "context_length_exceeded") from error
        return body | {"model": self._pinned, "max_tokens": new_tokens}

    def _logit_bias(self, bias: Any) -> dict[str, float]:
        """As transformers takes it. Raises `_RefusedError` for tokens that there are not, and for no numbers."""
        size = self._config.get_text_config().vocab_size

        def known(token: str) -> bool:
            return token.isdecimal() and len(token) < _DIGITS and int(token) < size

        if not isinstance(bias, dict) or not all(map(known, bias)):
            raise _RefusedError("logit_bias must be an object with a number for each of some tokens of the model.")
        if not all(isinstance(value, int | float) and -100 <= value <= 100 for value in bias.values()):
            raise _RefusedError("logit_bias must give tokens numbers of at least -100 and at most 100.")
        return {token: float(value) for token, value in bias.items()}

    def _prompt(self, body: Mapping[str, Any], path: str) -> int:
        """How many tokens the prompt has. Raises `_RefusedError` for none, or one that the model lacks."""
        from eggs_core.construction import check_vocabulary

        ids = self._ids(body, path)
        try:
            check_vocabulary(self._config, max(ids, default=0))
        except BrokenCheckpoint as error:
            raise _RefusedError(str(error)) from error
        return len(ids)

    def _ids(self, body: Mapping[str, Any], path: str) -> list[int]:
        """The tokens of the prompt. Raises `_RefusedError` where there are none."""
        if path == _COMPLETIONS:
            prompt = body.get("prompt")
            if not isinstance(prompt, str) or not (ids := self._tokenizer(prompt)["input_ids"]):
                raise _RefusedError("prompt must be a text, and not an empty one.")
            return list(ids)
        if self._tokenizer.chat_template is None:
            raise _RefusedError(f"The model has no chat template. Ask {_COMPLETIONS} instead.")
        tools = body.get("tools") or None
        text = self._chat(body, tools)
        if tools and text == self._chat(body, None):
            raise _RefusedError("The model's chat template has no place for tools.")
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _chat(self, body: Mapping[str, Any], tools: Any) -> str:
        """The text of the prompt, as transformers' server makes it. Raises `_RefusedError`."""
        try:
            text = self._tokenizer.apply_chat_template(
                body["messages"],
                tools=tools,
                tokenize=False,
                add_generation_prompt=True,
                **body.get("chat_template_kwargs", {}),
            )
        except Exception as error:  # templates refuse in their own ways what they do not foresee
            raise _RefusedError(f"The model's chat template does not take this: {error}") from error
        return str(text)


def _is_object(body: Mapping[str, Any], name: str) -> bool:
    return body.get(name) is None or isinstance(body[name], dict)


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """With texts as their contents, and what each call of a tool is given as objects: what templates take.

    Raises `_RefusedError` for what is anything else.
    """
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _RefusedError("messages must be a list, and not an empty one.")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise _RefusedError("Every one of the messages must be an object with a role.")
    understood = []
    for message in messages:
        plain = {"role": message["role"], "content": _text(message.get("content"))}
        if message.get("tool_calls"):
            plain |= {"tool_calls": _calls(message["tool_calls"]), "content": ""}  # as transformers has it
        if message.get("tool_call_id") is not None:
            plain["tool_call_id"] = message["tool_call_id"]
        understood.append(plain)
    return understood


def _text(content: Any) -> str:
    """Of a message: all of its parts. Raises `_RefusedError` for one that is no text, such as an image."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise _RefusedError("The content of each message must be a text, or a list of parts of type text.")
    return " ".join(map(str, texts))


def _calls(calls: Any) -> list[dict[str, Any]]:
    try:
        functions = [call["function"] for call in calls]
        arguments = [json.loads(given) if isinstance(given := of["arguments"], str) else given for of in functions]
        return [
            {**call, "function": {**of, "arguments": given}}
            for call, of, given in zip(calls, functions, arguments, strict=True)
        ]
    except (TypeError, KeyError, ValueError) as error:
        raise _RefusedError("Each of tool_calls must have a function with its arguments, in JSON.") from error


def _stop(body: Mapping[str, Any]) -> list[str]:
    """The texts that end an answer. Raises `_RefusedError` for what is none, such as an empty one."""
    stop = body.get("stop")
    texts = [] if stop is None else stop if isinstance(stop, list) else [stop]
    if not all(isinstance(text, str) and text for text in texts):
        raise _RefusedError("stop must be a text, or a list of some, and none of them empty.")
    return texts


def _check_settings(written: Any) -> None:
    """Raises `_RefusedError` for what transformers does not take as a `generation_config`."""
    from transformers import GenerationConfig

    if written is None:
        return
    try:
        GenerationConfig(**json.loads(written))
    except Exception as error:  # values fail in any way
        raise _RefusedError("generation_config must be a text that holds a JSON object of settings.") from error


def _number(
    body: Mapping[str, Any], name: str, least: float, most: float, *, whole: bool = False
) -> int | float | None:
    """Raises `_RefusedError` for what is no such number."""
    value = body.get(name)
    kinds = int if whole else int | float
    if value is None:
        return None
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        kind = "whole number" if whole else "number"
        raise _RefusedError(f"{name} must be a {kind} of at least {least} and at most {most}.")
    number: int | float = value
    return number


def _answer(request: Any, error: Exception) -> Any:
    """An error in the form in which OpenAI's clients read it."""
    from fastapi.responses import JSONResponse

    status = getattr(error, "status", getattr(error, "status_code", 500))
    kind = "server_error" if status >= 500 else "invalid_request_error"
    told = {
        "message": str(getattr(error, "detail", error)),
        "type": kind,
        "param": None,
        "code": getattr(error, "code", None),
    }
    return JSONResponse({"error": told}, status)


def _with_length(scope: "Scope", length: int) -> "Scope":
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    return {**scope, "headers": [*headers, (b"content-length", str(length).encode())]}


def _repeated(content: bytes, receive: "Receive") -> "Receive":
    """Gives the body, which was received before, and then what comes after it."""
    given = False

    async def repeat() -> Any:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": content, "more_body": False}

    return repeat
