"""Folders that strangers made: links that lead elsewhere, devices and pipes in place of files, settings that name
files of the machine."""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast, dynamic_module_utils

from eggs_core.checkpoint import Checkpoint
from eggs_core.errors import BrokenCheckpoint, EggsError, ModelNotAllowed, ModelNotFound, UnsupportedModel
from eggs_core.model_folder import (
    INDEX,
    MAX_COMPANION_BYTES,
    MAX_INDEX_BYTES,
    MAX_SETTINGS_BYTES,
    ModelFolder,
    most_bytes,
)
from eggs_core.pipeline import prune
from eggs_core.skeleton import Skeleton
from eggs_core.sources import offered_models, resolve_model
from eggs_core.spec import PruneSpec
from tests.limited import limited
from tests.tiny_models import MakeModel, bring_code

FILES = ["model.safetensors", INDEX, "config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE"]
REQUEST: dict[str, Any] = {
    "method": "magnitude",
    "calibration": {"samples": 1, "sequence_length": 16},
    "evaluation": None,
    "output": {"format": "dense"},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return (tmp_path / "root").resolve()


@pytest.fixture
def model(root: Path, make_model: MakeModel) -> Path:
    """A model of its own in the root, with each of `FILES`."""
    folder = root / "model"
    shutil.copytree(make_model("llama"), folder)
    (folder / "LICENSE").write_text("Do as you like.")
    names = Checkpoint(folder).file_of
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")}))
    return folder


def move(file: Path, to: Path) -> None:
    """Leaves a link where the file was."""
    to.parent.mkdir(parents=True, exist_ok=True)
    file.rename(to)
    file.symlink_to(to)


def run(model: Path, tmp_path: Path, roots: list[Path] | None) -> Path:
    out = tmp_path / "out"
    prune(PruneSpec(model=str(model), **REQUEST), out, cache_dir=tmp_path / "cache", model_roots=roots)
    return out


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_out_of_the_roots_is_not_followed(
    name: str, there: bool, model: Path, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside" / "secret"
    move(model / name, outside)
    if not there:
        outside.unlink()
    for act in (lambda: resolve_model("model", [root]), lambda: run(model, tmp_path, [root])):
        with pytest.raises(ModelNotAllowed, match=f"{re.escape(name)} is a link") as raised:
            act()
        assert str(tmp_path) not in str(raised.value)
    assert not (tmp_path / "out").exists()
    assert "model" not in {offered.id for offered in offered_models([root])}


@pytest.mark.parametrize("name", FILES)
def test_a_link_that_leads_out_by_a_detour_is_not_followed(
    name: str, model: Path, root: Path, tmp_path: Path
) -> None:
    move(model / name, tmp_path / "outside" / "secret")
    (root / "detour").symlink_to(tmp_path / "outside")
    (model / name).unlink()
    (model / name).symlink_to("../detour/secret")
    with pytest.raises(ModelNotAllowed):
        resolve_model("model", [root])


def test_a_link_that_is_made_while_a_job_runs_is_not_followed(model: Path, root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def swap(_: object) -> None:
        if not (model / "LICENSE").is_symlink():
            move(model / "LICENSE", tmp_path / "outside" / "secret")

    request = PruneSpec(model=str(model), **REQUEST)
    with pytest.raises(ModelNotAllowed, match="LICENSE"):
        prune(request, out, cache_dir=tmp_path / "cache", model_roots=[root], progress=swap)
    assert not (out / "LICENSE").exists()


def test_links_within_the_roots_are_followed_and_published_as_files(
    model: Path, root: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    for number, name in enumerate(FILES):
        move(model / name, (root if number % 2 else other) / "blobs" / f"{number}")
    out = run(model, tmp_path, [root, other])
    assert (out / "LICENSE").read_text() == "Do as you like."
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_the_command_line_follows_links_anywhere(model: Path, tmp_path: Path) -> None:
    for number, name in enumerate(FILES):
        move(model / name, tmp_path / "elsewhere" / str(number))
    out = run(model, tmp_path, None)
    assert (out / "LICENSE").read_text() == "Do as you like."
    assert not (out / "LICENSE").is_symlink()


def test_a_snapshot_of_the_hub_is_links_within_its_cache(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "hub"
    snapshot = cache / "models--org--model" / "snapshots" / ("c" * 40)
    snapshot.parent.mkdir(parents=True)
    model.rename(snapshot)
    for number, name in enumerate(FILES):
        move(snapshot / name, cache / "models--org--model" / "blobs" / str(number))
    files = ModelFolder(snapshot, [cache])
    assert set(files.companions()) >= {"config.json", "tokenizer.json", "LICENSE"}
    assert len(Checkpoint(files).read(["model.norm.weight"])) == 1
    move(cache / "models--org--model" / "blobs" / "2", tmp_path / "outside")
    with pytest.raises(ModelNotAllowed):
        files.check()


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link_to_pipe(path: Path) -> None:
    os.mkfifo(path.parent.parent / f"pipe of {path.name}")
    path.symlink_to(f"../pipe of {path.name}")


def _loop(path: Path) -> None:
    path.symlink_to(path.name)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("make", [_device, _pipe, _link_to_pipe, _loop])
@pytest.mark.parametrize("roots", [True, False], ids=["service", "command line"])
@pytest.mark.timeout(30)
def test_what_is_no_file_is_not_read(
    name: str, make: Callable[[Path], None], roots: bool, model: Path, root: Path, tmp_path: Path
) -> None:
    (model / name).unlink()
    make(model / name)
    with pytest.raises((BrokenCheckpoint, ModelNotAllowed), match=re.escape(name)) as raised:
        run(model, tmp_path, [root] if roots else None)
    assert str(tmp_path) not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("model.safetensors", BrokenCheckpoint),
        ("config.json", ModelNotFound),
        ("tokenizer.json", BrokenCheckpoint),
        (INDEX, None),
        ("LICENSE", None),
    ],
)
def test_a_folder_in_place_of_a_file(
    name: str, error: type[EggsError] | None, model: Path, root: Path, tmp_path: Path
) -> None:
    (model / name).unlink()
    (model / name).mkdir()
    if error is not None:
        with pytest.raises(error):
            run(model, tmp_path, [root])
    else:
        assert not (run(model, tmp_path, [root]) / name).is_dir()


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/../../x",
        "..",
        ".",
        "",
        "a\0b",
        "\ud800",
        "x" * 5000,
        "model.gone",
    ],
)
def test_an_index_that_names_what_is_no_shard_beside_it(name: str, model: Path, tmp_path: Path) -> None:
    shutil.copy(model / "model.safetensors", model.parent / "secret.safetensors")
    (model / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": name}}))
    for within in (None, [model.parent]):
        with pytest.raises((BrokenCheckpoint, ModelNotAllowed)) as raised:
            Checkpoint(ModelFolder(model, within))
        assert len(str(raised.value)) < 500
        assert str(tmp_path) not in str(raised.value)


@pytest.mark.parametrize(
    "name", ["LICENSE\n0  x", "LICENSE\r", "tokenizer\x1b[2K.json", "LICENSE\u2028", "LICENSE\udcff"], ids=ascii
)
def test_a_name_that_does_not_print_is_not_published(name: str, model: Path, tmp_path: Path) -> None:
    (model / name).write_text("x")
    with pytest.raises(BrokenCheckpoint, match="do not print") as raised:
        run(model, tmp_path, None)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    "index", [[], {}, {"weight_map": None}, {"weight_map": {"a": 1}}, {"weight_map": {"a": []}}]
)
def test_an_index_of_another_form(index: Any, model: Path) -> None:
    (model / INDEX).write_text(json.dumps(index))
    with pytest.raises(BrokenCheckpoint, match="not a shard index"):
        Checkpoint(model)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("config.json", MAX_SETTINGS_BYTES),
        ("generation_config.json", MAX_SETTINGS_BYTES),
        ("tokenizer_config.json", MAX_SETTINGS_BYTES),
        ("chat_template.jinja", MAX_SETTINGS_BYTES),
        (INDEX, MAX_INDEX_BYTES),
        ("tokenizer.json", MAX_COMPANION_BYTES),
        ("tokenizer.model", MAX_COMPANION_BYTES),
        ("LICENSE", MAX_COMPANION_BYTES),
    ],
)
def test_a_file_that_is_too_large_is_not_parsed(
    name: str, most: int, model: Path, root: Path, tmp_path: Path
) -> None:
    with (model / name).open("ab") as file:
        file.truncate(most + 1)
    for act in (lambda: resolve_model("model", [root]), lambda: run(model, tmp_path, None)):
        outcome, peak = limited(act)
        assert outcome.startswith(f"BrokenCheckpoint: {name} has {most + 1} bytes, and {most} are the most")
        assert peak < 16 << 20
    with (model / name).open("ab") as file:
        file.truncate(most)
    ModelFolder(model).check()


@pytest.mark.parametrize(
    "piece",
    [b"[],", b'{"":0},', b'"a":{},', b"[" * 1000 + b"]" * 1000 + b","],
    ids=["lists", "dicts", "keys", "deep"],
)
def test_settings_as_large_as_may_be_take_bounded_memory(piece: bytes, model: Path) -> None:
    opening, closing = (b"{", b'"b":0}') if b":{}" in piece else (b"[", b"0]")
    for name, error, memory in (
        ("config.json", "UnsupportedModel", 320 << 20),
        (INDEX, "BrokenCheckpoint", 1100 << 20),
    ):
        kept = (model / name).read_bytes()
        most = most_bytes(name)
        assert most is not None
        (model / name).write_bytes(opening + piece * ((most - 8) // len(piece)) + closing)
        outcome, peak = limited(lambda: Skeleton(Checkpoint(model), torch.device("cpu")))
        assert outcome.startswith(error)
        assert peak < memory
        (model / name).write_bytes(kept)


@pytest.fixture
def secret(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A tokenizer of somebody else, with one more token; and the same token as a line of a text."""
    folder = tmp_path / "elsewhere"
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 384, "content": "secret"})
    for name in ("tokenizer.json", "tokenizer.4.0.json"):
        (folder / name).write_text(json.dumps(content))
    (folder / "vocab.json").write_text(json.dumps({"secret": 0, "a": 1, "b": 2, "ab": 3}))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "lines.txt").write_text("secret\n")
    return folder


Settings = Callable[[Path], dict[str, Any]]


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("settings", "own"),
    [
        (lambda folder: {"tokenizer_file": f"{folder}/tokenizer.json"}, True),
        (lambda folder: {"tokenizer_file": f"{folder}/tokenizer.json"}, False),
        (lambda folder: {"fast_tokenizer_files": [f"{folder}/tokenizer.4.0.json"]}, True),
        (
            lambda folder: {
                "tokenizer_class": "GPT2Tokenizer",
                "vocab": f"{folder}/vocab.json",
                "merges": f"{folder}/merges.txt",
            },
            False,
        ),
        (
            lambda folder: {
                "tokenizer_class": "GPT2Tokenizer",
                "vocab_file": f"{folder}/vocab.json",
                "merges_file": f"{folder}/merges.txt",
            },
            False,
        ),
        (lambda folder: {"tokenizer_class": "BertTokenizer", "vocab": f"{folder}/lines.txt"}, False),
    ],
    ids=["tokenizer", "no tokenizer", "versions", "vocab", "vocab_file", "any text"],
)
def test_settings_that_name_files_of_the_machine_are_not_heeded(
    file: str, settings: Settings, own: bool, model: Path, secret: Path, tmp_path: Path
) -> None:
    (model / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": settings(secret).get("tokenizer_class")})
    )
    (model / file).write_text(json.dumps(settings(secret)))
    if not own:
        (model / "tokenizer.json").unlink()
    with ModelFolder(model).private() as private:
        try:
            vocabulary = AutoTokenizer.from_pretrained(private, local_files_only=True).get_vocab()
        except Exception:
            assert not own
        else:
            assert "secret" not in vocabulary


def test_a_tokenizer_that_makes_its_library_give_up(model: Path, tmp_path: Path) -> None:
    """By going back and forth in a text, in time that doubles with each of its letters."""
    content = json.loads((model / "tokenizer.json").read_text())
    content["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    (model / "tokenizer.json").write_text(json.dumps(content))
    text = tmp_path / "text.txt"
    text.write_text("a" * 100 + "b")
    calibration = {"source": f"file:{text}", "samples": 1, "sequence_length": 16}
    request = PruneSpec(model=str(model), **REQUEST | {"calibration": calibration})
    with pytest.raises(BrokenCheckpoint, match="gives up"):
        prune(request, tmp_path / "out", cache_dir=tmp_path / "cache")


def test_settings_without_files_are_published_as_they_are(model: Path, tmp_path: Path) -> None:
    settings = (model / "tokenizer_config.json").read_bytes()
    config = (model / "config.json").read_bytes()
    ModelFolder(model).copy_companions(tmp_path)
    assert (tmp_path / "tokenizer_config.json").read_bytes() == settings
    assert (tmp_path / "config.json").read_bytes() == config


def test_a_config_does_not_choose_code_to_fetch(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    changes = {"attn_implementation": "stranger/kernels", "configuration_files": ["/etc/config.4.0.json"]}
    (model / "config.json").write_text(json.dumps(config | changes))
    out = run(model, tmp_path, [model.parent])
    assert json.loads((out / "config.json").read_text()) == config


@pytest.mark.parametrize("family", ["llama", "own"])
def test_code_that_a_model_brings_is_not_run(
    family: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it needs none, it is pruned as transformers has it, and the code is not published either."""
    trace = tmp_path / "trace"
    bring_code(model, trace)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": family}))
    measured = {"samples": 1, "sequence_length": 16, "generations": 1}  # which loads whole models besides
    request = PruneSpec(model=str(model), **REQUEST | {"evaluation": measured})
    out = tmp_path / "out"
    if family == "llama":
        prune(request, out, cache_dir=tmp_path / "cache")
        assert [file for file in out.iterdir() if file.suffix == ".py" or b"auto_map" in file.read_bytes()] == []
    else:
        with pytest.raises(UnsupportedModel, match="without remote code"):
            prune(request, out, cache_dir=tmp_path / "cache")
    assert not trace.exists()

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    with suppress(Exception):
        AutoConfig.from_pretrained(model, trust_remote_code=True)
    assert trace.exists(), "nor would it be where it is allowed"
