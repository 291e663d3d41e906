"""Commands on packed models, as a user runs them: unpack, generate, time, and serve to OpenAI's own client."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from fastapi import FastAPI
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from app.cli.main import app, main
from app.cli.render import report_tables
from eggs_core import kernels, serving
from eggs_core.errors import BrokenCheckpoint
from eggs_core.pipeline import prune
from eggs_core.report import Report
from eggs_core.spec import PruneSpec
from eggs_core.whole import continuation, load
from tests.conftest import wait_for
from tests.tiny_models import MakeModel

EGGS = [sys.executable, "-m", "app.cli"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
PROMPT = "The value of"
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}


def eggs(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*EGGS, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.fixture
def refusal_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a command says that refuses; in this process, as loading the libraries takes longer than refusing."""

    def refusal(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["eggs", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        return " ".join(capsys.readouterr().err.split())

    return refusal


@pytest.fixture(scope="module")
def pruned(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that `eggs prune` left in both forms, with the speed in its report."""
    folder = tmp_path_factory.mktemp("pruned")
    model = make_model("llama", max_position_embeddings=512, dtype="bfloat16")
    text = ["--calibration-samples", "4", "--sequence-length", "48", "--evaluation-samples", "2"]
    result = eggs("prune", model, "--method", "ria", "--speed", *text, "--out", folder / "out", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads((folder / "out" / "report.json").read_text())
    assert json.loads(result.stdout) == report
    assert [speed["batch"] for speed in report["evaluation"]["speed"]] == [1, 4, 16]
    with (console := Console(width=200)).capture() as shown:
        console.print(report_tables(Report.model_validate(report)))
    for said in ("Checkpoint, packed", "In memory, packed", "Speed of the pruned model"):
        assert said in shown.get()
    return folder / "out"


def test_unpack(pruned: Path, tmp_path: Path, refusal_of: Callable[..., str]) -> None:
    result = eggs("unpack", pruned / "packed", "--out", tmp_path / "dense", "--json")
    assert result.returncode == 0, result.stderr
    sizes = {
        f"{form}_bytes": sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for form, folder in (("packed", pruned / "packed"), ("dense", tmp_path / "dense"))
    }
    assert json.loads(result.stdout) == {"path": str(tmp_path / "dense"), **sizes}
    for file in pruned.glob("*.safetensors"):
        expected, found = load_file(file), load_file(tmp_path / "dense" / file.name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert "Name a new folder" in refusal_of("unpack", pruned / "packed", "--out", tmp_path / "dense")
    dense = refusal_of("unpack", pruned, "--out", tmp_path / "another")
    assert "not say that this checkpoint was packed" in dense
    assert eggs("unpack", tmp_path / "none", "--out", tmp_path / "another").returncode == 2


def test_generate(pruned: Path) -> None:
    """The same text from either form, that of transformers."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(pruned), AutoTokenizer.from_pretrained(pruned)
    inputs = tokenizer(PROMPT, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    added = ids[0, inputs["input_ids"].shape[1] :]
    expected = tokenizer.decode(added, skip_special_tokens=True)
    dense = eggs("generate", pruned, PROMPT, "--tokens", "8", "--json")
    assert json.loads(dense.stdout) == {"prompt": PROMPT, "text": expected, "tokens": len(added)}, dense.stderr
    packed = eggs("generate", pruned / "packed", PROMPT, "--tokens", "8")
    assert packed.stdout.rstrip("\n") == (PROMPT + expected).rstrip("\n"), packed.stderr


def test_bench_runtime(pruned: Path) -> None:
    short = ["--prompt-tokens", "8", "--new-tokens", "4", "--rounds", "1"]
    result = eggs("bench", "runtime", pruned, "--batch", "1", "--batch", "3", *short, "--json")
    assert result.returncode == 0, result.stderr
    one, three = json.loads(result.stdout)
    assert (one["batch"], three["batch"], one["prompt_tokens"], one["new_tokens"]) == (1, 3, 8, 4)
    for speed in (one, three):
        rates = [speed[form]["tokens_per_second"] for form in ("dense", "packed")]
        assert min(rates) > 0
        assert speed["ratio"] == pytest.approx(rates[1] / rates[0])
        shapes = Counter((products["shape"][0], products["shape"][1]) for products in speed["products"])
        assert shapes == dict.fromkeys([(32, 32), (16, 32), (64, 32), (32, 64)], 1)
        assert sum(products["layers"] for products in speed["products"]) == 2 * 7
    level = kernels.best_level()
    assert level is not None
    many = f"packed, {level.name}" if kernels.any_batch(torch.bfloat16) else "unpacked"
    assert {products["decode"] for products in one["products"]} == {f"packed, {level.name}"}
    assert {products["prefill"] for products in one["products"]} == {f"packed, {level.name}"}
    assert {products["prefill"] for products in three["products"]} == {many}
    shown = eggs("bench", "runtime", pruned / "packed", "--batch", "1", *short).stdout
    assert "Tokens/s, dense" in shown
    assert f"packed, {level.name}" in shown


@pytest.mark.filterwarnings("ignore:eggs was installed without a C compiler")
def test_a_packed_form_that_is_slower_is_told_as_it_is(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it surely is where the kernels were not built: weights are unpacked for every product."""
    monkeypatch.setattr(kernels, "_compiled", None)
    model, out = make_model("llama", max_position_embeddings=512), tmp_path / "out"
    text = {"samples": 2, "sequence_length": 48}
    evaluation = text | {"speed": True, "generations": 0}
    spec = {"model": str(model), "method": "ria", "calibration": text, "evaluation": evaluation}
    report = prune(PruneSpec.model_validate(spec), out, cache_dir=tmp_path)
    assert report.evaluation is not None
    for speed in (speeds := report.evaluation.speed):
        assert speed.ratio == pytest.approx(speed.packed.tokens_per_second / speed.dense.tokens_per_second)
        assert speed.ratio < 1
        assert {way for of in speed.products for way in (of.prefill, of.decode)} == {"unpacked"}
    with (console := Console(width=200)).capture() as shown:
        console.print(report_tables(Report.model_validate_json((out / "report.json").read_text())))
    rows = [line.split("│") for line in shown.get().partition("Speed of the pruned model")[2].splitlines()]
    told = {row[1].strip(): row[4].strip() for row in rows if len(row) == 8 and row[1].strip().isdigit()}
    assert told == {str(speed.batch): f"{speed.ratio:.2f}" for speed in speeds}
    short = ["--batch", "1", "--prompt-tokens", "8", "--new-tokens", "8", "--json"]
    result = CliRunner().invoke(app, ["bench", "runtime", str(out), *short])
    assert result.exit_code == 0, result.output
    assert 0 < json.loads(result.stdout)[0]["ratio"] < 1


@contextmanager
def server(pruned: Path, tmp_path: Path) -> Iterator[str]:
    """Where `eggs serve-model` serves the packed model, until the `with` ends."""
    # The chat is the prompt alone, so that both endpoints are to say the same.
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (pruned / "packed" / "chat_template.jinja").write_text(template)
    said, log = tmp_path / "said", tmp_path / "log"
    command = [*EGGS, "serve-model", str(pruned / "packed"), "--port", "0", "--json"]
    with (
        said.open("wb") as output,
        log.open("wb") as errors,
        subprocess.Popen(command, env=ENVIRONMENT, stdout=output, stderr=errors) as process,
    ):

        def first_line() -> str:
            assert process.poll() is None, log.read_text()
            line, newline, _ = said.read_text().partition("\n")
            return line if newline else ""

        try:
            # No waiting for it to answer: it listens by then.
            yield json.loads(wait_for(first_line))["url"]
        finally:
            process.terminate()
            assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.fixture(scope="module")
def served(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with server(pruned, tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture
def client(served: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=served, api_key="unused", max_retries=0, timeout=60)


def test_serve_model_answers_openais_client(client: openai.OpenAI, pruned: Path) -> None:
    name = str(pruned / "packed")
    options: Any = {"model": name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(**options)
    parts = [chunk.choices[0].text for chunk in client.completions.create(**options, stream=True) if chunk.choices]
    assert len(parts) > 1
    assert "".join(parts) == whole.choices[0].text != ""
    assert whole.usage is not None
    assert whole.usage.completion_tokens <= 8
    messages: Any = [{"role": "user", "content": PROMPT}]
    answer = client.chat.completions.create(model=name, messages=messages, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content == whole.choices[0].text
    stream = client.chat.completions.create(
        model=name, messages=messages, max_tokens=8, temperature=0, stream=True
    )
    said = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(said) == "".join(parts)


def test_serve_model_tells_its_name_and_takes_others_that_mean_it(client: openai.OpenAI, pruned: Path) -> None:
    (model,) = client.models.list().data
    assert model.id == client.models.retrieve("packed").id == "packed"
    options: Any = {"prompt": PROMPT, "max_tokens": 4, "temperature": 0}
    whole = client.completions.create(model=model.id, **options)
    assert whole.model == "packed"
    assert {part.model for part in client.completions.create(model=model.id, **options, stream=True)} == {"packed"}
    for name in (str(pruned / "packed"), "packed@main"):
        assert client.completions.create(model=name, **options).choices == whole.choices
    with pytest.raises(openai.NotFoundError, match="There is no model 'another' here"):
        client.completions.create(model="another", **options)


@pytest.mark.parametrize("asked", [{"temperature": 2}, {"top_p": 0.99}])
def test_serve_model_samples_where_it_is_asked_to(asked: Any, client: openai.OpenAI) -> None:
    def said(seed: int) -> str:
        options: Any = {"model": "packed", "prompt": PROMPT, "max_tokens": 16}
        return client.completions.create(**options, **asked, seed=seed).choices[0].text

    assert said(1) == said(1)
    assert len({said(seed) for seed in range(4)}) > 1


def test_serve_model_ends_before_a_stop(client: openai.OpenAI) -> None:
    options: Any = {"model": "packed", "max_tokens": 8, "temperature": 0}
    whole = client.completions.create(prompt=PROMPT, **options).choices[0].text
    options["stop"] = ["never said", stop := whole[2:4]]
    expected = whole[: whole.index(stop)]
    stopped = client.completions.create(prompt=PROMPT, **options).choices[0]
    assert (stopped.text, stopped.finish_reason) == (expected, "stop")
    assert client.chat.completions.create(messages=MESSAGES, **options).choices[0].message.content == expected
    parts = client.completions.create(prompt=PROMPT, **options, stream=True)
    assert "".join(part.choices[0].text for part in parts) == expected
    chat = client.chat.completions.create(messages=MESSAGES, **options, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in chat) == expected


def test_serve_model_ends_streams_as_openai_does(client: openai.OpenAI, served: str) -> None:
    options: Any = {"model": "packed", "max_tokens": 4, "temperature": 0, "stream": True}
    with_usage = {"stream_options": {"include_usage": True}}
    *_, last, usage = client.chat.completions.create(messages=MESSAGES, **options, **with_usage)
    assert (last.choices[0].finish_reason, last.usage, usage.choices) == ("length", None, [])
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 4
    said = httpx.post(f"{served}/completions", json=options | {"prompt": PROMPT}, timeout=60).text
    assert said.endswith("\n\ndata: [DONE]\n\n")


def test_serve_model_takes_its_answers_back(client: openai.OpenAI) -> None:
    """As clients give them that write out all of a message, and calls of tools with their results."""
    options: Any = {"model": "packed", "max_tokens": 4}
    answer = client.chat.completions.create(messages=MESSAGES, **options).choices[0].message.model_dump()
    assert answer["tool_calls"] is None
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    called: Any = [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "5"},
    ]
    usage = client.chat.completions.create(messages=[*MESSAGES, answer, *called, *MESSAGES], **options).usage
    assert usage is not None


@pytest.mark.parametrize("path", ["reset", "load_model", "v1/responses", "v1/systemone", "docs"])
def test_serve_model_serves_nothing_else(path: str, served: str) -> None:
    """Such as loading another model, which transformers' server does for whoever asks."""
    answer = httpx.post(served.removesuffix("v1") + path, json={"model": "another"}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, f"There is no POST /{path} here.")


def test_serve_model_ends_where_the_models_positions_do(client: openai.OpenAI) -> None:
    for most in ({}, {"max_tokens": 100_000}):
        usage = client.completions.create(model="packed", prompt=PROMPT, temperature=0, **most).usage
        assert usage is not None
        assert usage.total_tokens <= 512
    with pytest.raises(openai.BadRequestError, match="takes 512"):
        client.completions.create(model="packed", prompt=PROMPT * 500)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ""}, "prompt must be"),
        ({}, "prompt must be"),
        ({"prompt": PROMPT, "max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
        ({"prompt": PROMPT, "max_tokens": "many"}, "max_tokens must be"),
        ({"prompt": PROMPT, "temperature": -1}, "temperature must be"),
        ({"prompt": PROMPT, "seed": "x"}, "seed must be a whole number"),
        ({"prompt": PROMPT, "seed": 10**30}, "seed must be a whole number"),
        ({"prompt": PROMPT, "max_tokens": 10**400}, "max_tokens must be"),
        ({"prompt": PROMPT, "temperature": 10**400}, "temperature must be"),
        ({"prompt": PROMPT, "temperature": 1e-320}, "temperature must be 0, or at least"),
        ({"prompt": PROMPT, "top_p": 2}, "top_p must be a number of at least 0 and at most 1"),
        ({"prompt": PROMPT, "frequency_penalty": "x"}, "frequency_penalty is not supported"),
        ({"prompt": PROMPT, "frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"prompt": PROMPT, "stop": 5}, "stop must be"),
        ({"prompt": PROMPT, "stop": [5]}, "stop must be"),
        ({"prompt": PROMPT, "stop": ""}, "stop must be"),
        ({"prompt": PROMPT, "generation_config": "garbage"}, "generation_config must be"),
        ({"prompt": PROMPT, "generation_config": "5"}, "generation_config must be"),
        ({"prompt": PROMPT, "generation_config": 5}, "generation_config must be"),
        ({"prompt": PROMPT, "suffix": "."}, "suffix is not supported"),
        ({"prompt": PROMPT, "presence_penalty": 1}, "presence_penalty is not supported"),
        ({"prompt": PROMPT, "logit_bias": {"5": 1}}, "logit_bias is not supported"),
        ({"messages": MESSAGES, "logit_bias": {"100000": 1}}, "logit_bias must be"),
        ({"messages": MESSAGES, "logit_bias": {"5": "x"}}, "logit_bias must give"),
        ({"messages": MESSAGES, "response_format": {"type": "json_object"}}, "response_format is not supported"),
        ({"messages": MESSAGES, "functions": [{"name": "f"}]}, "functions is not supported"),
        ({"messages": MESSAGES, "tool_choice": "required"}, "tool_choice is not supported"),
        ({"messages": MESSAGES, "tools": [{}], "tool_choice": "none"}, "tool_choice is not supported"),
        ({"messages": MESSAGES, "tools": [{}], "parallel_tool_calls": False}, "parallel_tool_calls is not"),
        ({"prompt": "a\ud800b"}, "surrogate"),
        ({"prompt": PROMPT, "n": 2}, "n is not supported"),
        ({"prompt": PROMPT, "logprobs": 3}, "logprobs is not supported"),
        ({"prompt": PROMPT, "logprobs": 0}, "logprobs is not supported"),
        ({"prompt": PROMPT, "stream": "yes"}, "stream must be"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a list of parts of type text"),
        ({"messages": [{"role": "user", "content": ["hello"]}]}, "a list of parts of type text"),
        ({"messages": [{"role": "user", "content": 5}]}, "a list of parts of type text"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "Each of tool_calls must have"),
        ({"messages": MESSAGES, "tools": [5]}, "chat template does not take this"),
        ({"messages": MESSAGES, "tools": [TOOL]}, "no place for tools"),
        ({"prompt": PROMPT, "no_such_field": 1}, "Unexpected fields"),
        ({"messages": []}, "messages must be"),
        ({"messages": ["hello"]}, "an object with a role"),
        ({"messages": [{"content": "hello"}]}, "an object with a role"),
        ([], "no JSON object"),
        ({"model": ["packed"], "prompt": PROMPT}, "There is no model"),
    ],
)
def test_serve_model_says_what_is_wrong_with_a_request(body: Any, message: str, served: str) -> None:
    path = "chat/completions" if "messages" in body else "completions"
    headers = {"Content-Type": "application/json"}
    # Not by httpx, which has no way to write half of a surrogate pair.
    answer = httpx.post(f"{served}/{path}", content=json.dumps(body), headers=headers, timeout=60)
    assert 400 <= answer.status_code < 500
    assert message in answer.json()["error"]["message"]


def test_serve_model_takes_what_changes_no_answer(served: str, client: openai.OpenAI) -> None:
    nested = httpx.post(f"{served}/completions", content="[" * 100_000, timeout=60)
    assert (nested.status_code, nested.json()["error"]["message"]) == (400, "The body is no JSON object.")
    options: Any = {"model": "packed", "max_tokens": 8, "temperature": 0}
    plain = client.completions.create(prompt=PROMPT, **options).choices
    harmless: Any = {"stop": [], "user": "me", "presence_penalty": 0, "frequency_penalty": 0, "top_p": 1}
    assert client.completions.create(prompt=PROMPT, **options, **harmless, logit_bias={}).choices == plain
    harmless |= {"response_format": {"type": "text"}, "metadata": {"a": "b"}, "store": False, "logit_bias": {}}
    said = client.chat.completions.create(messages=MESSAGES, **options, **harmless, tool_choice="none")
    assert said.choices[0].message.content == plain[0].text
    biased = client.chat.completions.create(messages=MESSAGES, **options, logit_bias={"70": 100})
    assert len(set(biased.choices[0].message.content or "")) == 1


def test_serve_model_stops_for_clients_that_have_gone(served: str) -> None:
    """Whoever asks next would wait for all that nobody will read."""
    url = f"{served}/chat/completions"
    long = {
        "messages": MESSAGES,
        "max_tokens": 480,
        "temperature": 0,
        "logit_bias": {"0": -100},
    }  # no end by itself
    begun = time.monotonic()
    assert httpx.post(url, json=long, timeout=60).json()["usage"]["completion_tokens"] == 480
    whole = time.monotonic() - begun
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=long, timeout=httpx.Timeout(60, read=whole / 20))
    begun = time.monotonic()
    httpx.post(url, json=long | {"max_tokens": 1}, timeout=60)
    assert time.monotonic() - begun < whole


def test_serve_model_ends_while_it_generates(pruned: Path, tmp_path: Path) -> None:
    """As `server` sees to."""
    body = {"prompt": PROMPT, "max_tokens": 100_000, "temperature": 2}
    with server(pruned, tmp_path) as url, pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/completions", json=body, timeout=0.05)


def _without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _without_its_quantization_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))


def _of_another_type(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "nope"}))


def _without_a_weight(folder: Path) -> None:
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        tensors.pop("model.norm.weight", None)
        save_file(tensors, file, {"format": "pt"})


@pytest.mark.parametrize("command", [("generate", PROMPT), ("serve-model", "--port", "0")])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_without("config.json"), "holds no model"),
        (_without("tokenizer.json"), "holds no model"),
        (_of_another_type, "model type `nope`"),
        (_without_its_quantization_config, "has no quantization_config"),
        (_without_a_weight, "lacks 1 weights, such as model.norm.weight"),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(
    harm: Callable[[Path], None],
    message: str,
    command: tuple[str, ...],
    pruned: Path,
    tmp_path: Path,
    refusal_of: Callable[..., str],
) -> None:
    folder = Path(shutil.copytree(pruned / "packed", tmp_path / "harmed"))
    (folder / "tokenizer_config.json").write_text("{}")
    harm(folder)
    assert message in refusal_of(command[0], folder, *command[1:])


@pytest.mark.parametrize("architectures", [None, [], ["LlamaModel"], ["Nothing"]])
def test_an_architecture_that_does_not_generate_is_not_served(
    architectures: Any, make_model: MakeModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(make_model("llama"), tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
    load(folder)
    with pytest.raises(BrokenCheckpoint, match="no model that generates text"):
        serving._check_architecture(folder)


def test_a_tokenizer_with_more_tokens_than_the_model_is_told(make_model: MakeModel) -> None:
    small = make_model("llama", vocab_size=200)
    model, tokenizer = load(small)
    with pytest.raises(BrokenCheckpoint, match="they do not belong together"):
        continuation(model, tokenizer, PROMPT, 4)
    front = serving._Front(FastAPI(), small)
    with pytest.raises(serving._RefusedError, match="they do not belong together") as refused:
        front._understood(json.dumps({"prompt": PROMPT}).encode(), "/v1/completions")
    assert refused.value.status == 400


def test_generate_keeps_to_the_positions_of_the_model(pruned: Path, refusal_of: Callable[..., str]) -> None:
    result = eggs("generate", pruned / "packed", PROMPT, "--tokens", "2000", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["tokens"] < 512
    for prompt, message in (("", "has no token"), (PROMPT * 500, "the model takes 512")):
        assert message in refusal_of("generate", pruned / "packed", prompt)


def test_generate_takes_text_and_no_other_bytes(tmp_path: Path) -> None:
    result = eggs("generate", tmp_path, os.fsdecode(b"a\xffb"))
    assert result.returncode == 2
    assert "not a text in UTF-8" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
