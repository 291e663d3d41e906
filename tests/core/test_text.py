"""Texts from every source, cut into windows."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from eggs_core import text
from eggs_core.errors import NotEnoughText, TextNotFound
from eggs_core.spec import CalibrationSpec, TextSpec
from eggs_core.text import Part, fingerprint, token_windows

STORY = [f"Paragraph {i} says what the one before it did not say." for i in range(200)]


def windows(spec: TextSpec, part: Part, tokenizer: Any, **options: object) -> torch.Tensor:
    return token_windows(spec, part, tokenizer, text_roots=None, cache_dir=Path("unused"), **options)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    text = tmp_path / "story.txt"
    text.write_text("\n\n".join(STORY))
    lines = tmp_path / "story.jsonl"
    lines.write_text("".join(json.dumps({"body": p, "id": i}) + "\n" for i, p in enumerate(STORY)))
    table = tmp_path / "story.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": STORY, "id": range(len(STORY))}), table, row_group_size=50)
    return {"txt": text, "jsonl": lines, "parquet": table}


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_every_kind_of_file_gives_the_same_windows(
    kind: str, files: dict[str, Path], tokenizer: PreTrainedTokenizerFast
) -> None:
    spec = TextSpec(source=f"file:{files[kind]}", text_field="body", samples=None, sequence_length=64)
    tokens = windows(spec, "evaluation", tokenizer)
    expected = tokenizer("\n\n".join(STORY)).input_ids
    assert tokens.flatten().tolist() == expected[: len(expected) // 64 * 64]


def test_pydocs_has_disjoint_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    spec = TextSpec(samples=None, sequence_length=32)
    parts = {part: windows(spec, part, tokenizer) for part in ("calibration", "evaluation")}
    calibration = {tuple(row) for row in parts["calibration"].tolist()}
    evaluation = {tuple(row) for row in parts["evaluation"].tolist()}
    assert len(parts["calibration"]) > 3 * len(parts["evaluation"]) > 100
    # Python's help repeats a few stock phrases; whole windows in common would be text in common.
    assert len(calibration & evaluation) <= len(evaluation) // 100


def test_calibration_draws_without_overlap_and_repeats(tokenizer: PreTrainedTokenizerFast) -> None:
    spec = CalibrationSpec(samples=50, sequence_length=32, seed=3)
    tokens = windows(spec, "calibration", tokenizer)
    assert tokens.shape == (50, 32)
    assert tokens.dtype == torch.int64
    assert len({tuple(row) for row in tokens.tolist()}) == 50
    assert torch.equal(tokens, windows(spec, "calibration", tokenizer))
    other = windows(spec.model_copy(update={"seed": 4}), "calibration", tokenizer)
    assert fingerprint(tokens) != fingerprint(other)


def test_evaluation_takes_from_the_start(tokenizer: PreTrainedTokenizerFast) -> None:
    few = windows(TextSpec(samples=3, sequence_length=32), "evaluation", tokenizer)
    every = windows(TextSpec(samples=None, sequence_length=32), "evaluation", tokenizer)
    assert torch.equal(few, every[:3])


@pytest.mark.parametrize("characters_per_token", [1, 4])
def test_about_as_much_text_is_tokenized_as_is_asked_for(
    characters_per_token: int,
    files: dict[str, Path],
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text, "_CHARACTERS_PER_TOKEN", characters_per_token)
    taken: list[str] = []

    class Noting:
        bos_token_id = tokenizer.bos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            taken.append(text)
            return tokenizer(text, **options)

    spec = TextSpec(source=f"file:{files['jsonl']}", text_field="body", samples=3, sequence_length=64)
    tokens = windows(spec, "evaluation", Noting())
    assert tokens.flatten().tolist() == tokenizer("\n\n".join(STORY)).input_ids[: tokens.numel()]
    assert "".join(taken) == "\n\n".join(STORY)[: len("".join(taken))]
    assert len("".join(taken)) < 4 * tokens.numel() + 2 * len(STORY[-1])
    assert (len(taken) > 2) == (characters_per_token == 1)


def test_windows_begin_as_the_tokenizer_begins_texts(tokenizer: PreTrainedTokenizerFast) -> None:
    """Some models (Gemma) are lost without their first token."""
    from tokenizers.processors import TemplateProcessing

    beginning = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, bos_token="<|endoftext|>")
    beginning.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    tokens = windows(TextSpec(samples=3, sequence_length=32), "evaluation", beginning)
    plain = windows(TextSpec(samples=3, sequence_length=31), "evaluation", tokenizer)
    assert tokens[:, 0].tolist() == [0, 0, 0]
    assert torch.equal(tokens[:, 1:], plain)


def test_too_little_text_names_both_numbers(files: dict[str, Path], tokenizer: PreTrainedTokenizerFast) -> None:
    available = len(tokenizer("\n\n".join(STORY)).input_ids)
    spec = CalibrationSpec(source=f"file:{files['txt']}", samples=1000, sequence_length=64)
    with pytest.raises(NotEnoughText, match=f"gives {available} tokens.* need 64000"):
        windows(spec, "calibration", tokenizer)


@pytest.mark.parametrize("line", [50, 1000, 100_000])
def test_long_lines_are_tokenized_a_part_at_a_time(
    line: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "_BATCH_CHARACTERS", 2000)
    taken: list[str] = []

    class Noting:
        bos_token_id = tokenizer.bos_token_id

        def __call__(self, text: str, **options: Any) -> Any:
            taken.append(text)
            return tokenizer(text, **options)

    file = tmp_path / "long.txt"
    file.write_text("\n".join(("word " * (line // 5)) for _ in range(100_000 // line)))
    windows(TextSpec(source=f"file:{file}", samples=None, sequence_length=8), "evaluation", Noting())
    assert max(map(len, taken)) <= 2 * 2000 + len("\n\n")
    assert "".join(taken).replace("\n", "") == file.read_text().replace("\n", "")
    assert all(part.endswith("\n") for part in taken[1:-1]) == (line < 100_000)


def test_unreadable_texts_say_why(
    files: dict[str, Path], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    def refused(message: str, source: str, **options: object) -> None:
        with pytest.raises(TextNotFound, match=message):
            windows(TextSpec(source=source, samples=1, sequence_length=32), "evaluation", tokenizer, **options)

    broken = tmp_path / "broken.jsonl"
    broken.write_text("not json\n")
    numbers = tmp_path / "numbers.jsonl"
    numbers.write_text('{"text": 3}\n')
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00")
    false = tmp_path / "false.parquet"
    false.write_text("no parquet")
    damaged = tmp_path / "damaged.parquet"
    content = bytearray(files["parquet"].read_bytes())
    content[64:2000] = bytes(len(content[64:2000]))
    damaged.write_bytes(bytes(content))
    deep = tmp_path / "deep.jsonl"
    deep.write_text("[" * 200_000 + "\n")
    nothing = tmp_path / "nulls.jsonl"
    nothing.write_text('{"text": null}\n')
    spec = TextSpec(source=f"file:{nothing}", samples=1, sequence_length=32)
    with pytest.raises(NotEnoughText, match="0 tokens"):
        windows(spec, "evaluation", tokenizer)
    for path in (damaged, deep):
        spec = TextSpec(source=f"file:{path}", samples=1, sequence_length=32, text_field="body")
        with pytest.raises(TextNotFound):
            windows(spec, "evaluation", tokenizer)
    refused("no text file at", f"file:{tmp_path / 'missing.txt'}")
    table = tmp_path / "table.csv"
    table.write_text("a,b")
    refused("not a text this service reads", f"file:{table}")
    refused("Name its text with text_field", f"file:{files['jsonl']}")
    refused("Name its text with text_field", f"file:{files['parquet']}")
    for path in (broken, numbers, binary, false):
        refused("is not a readable", f"file:{path}")
    half = tmp_path / "half.jsonl"
    half.write_text('{"text": "half \\ud800 of a character"}\n')
    refused(r"'\\ud800', half of a character", f"file:{half}")
    refused("Use pydocs, file:PATH or hub:ORG/NAME", "wikitext")
    refused("not a Hub data set", "hub:nonsense")
    refused("does not use", "hub:Salesforce/wikitext", allow_hub=False)


def test_texts_stay_inside_their_roots(
    files: dict[str, Path], tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    inside = tmp_path / "texts"
    inside.mkdir()
    (inside / "link.txt").symlink_to(files["txt"])
    for path in (files["txt"], inside / ".." / "story.txt", inside / "link.txt"):
        spec = TextSpec(source=f"file:{path}", samples=1, sequence_length=32)
        with pytest.raises(TextNotFound, match="outside the folders"):
            token_windows(spec, "evaluation", tokenizer, text_roots=[inside], cache_dir=tmp_path)
