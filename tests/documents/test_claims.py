"""What pages say of the code, of tests and of measurements is so."""

import json
import re
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

from eggs_client import Eggs
from eggs_core.packing import pack
from eggs_core.pattern import NMPattern
from tests.documents.blocks import PAGES, ROOT, name_of
from tests.documents.problem_kinds import kinds

TEXTS = "wikitext2-test", "c4-sample"
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", PAGES, ids=name_of)
def test_the_tests_that_a_document_names_are_there(document: Path) -> None:
    for file, test in NAMED.findall(document.read_text()):
        assert (ROOT / file).is_file(), file
        assert f"def {test}" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_page_on_security_names_tests() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert all(NAMED.search(row) or row.endswith("| Shown by |") for row in rows)


def test_the_page_on_troubleshooting_has_every_kind_of_problem() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    said = re.findall(r"^### `([\w-]+)`\n\n\*\*(\d{3})\.\*\* ", page, re.MULTILINE)
    assert len(said) == len(re.findall("^### ", page, re.MULTILINE))
    assert {code: int(status) for code, status in said} == kinds()


def test_the_page_on_the_client_has_all_that_it_does() -> None:
    page = (ROOT / "docs" / "client.md").read_text()
    said = {
        name: set(re.findall(r"`(\w+)`", what))
        for name, what in re.findall(r"^\| `eggs\.(\w+)` \| (.*) \|$", page, re.M)
    }
    with Eggs(api_key="eggs_none") as eggs:
        resources = {name: vars(type(value)) for name, value in vars(eggs).items() if not name.startswith("_")}
    there = {name: {one for one in methods if not one.startswith("_")} for name, methods in resources.items()}
    there["jobs"].remove("follow")  # what `events` and `wait` are made of
    assert said == there


def test_the_example_of_the_packed_form() -> None:
    page = " ".join((ROOT / "docs" / "packed-format.md").read_text().split())
    values, mask = pack(torch.tensor([[0, 1.5, 0, -2, 3, 0, 0, 0, 0, 0, 4, 5]]), NMPattern(2, 4))
    assert values.tolist() == [[1.5, -2, 3, 0, 4, 5]]
    first, second = mask[0].tolist()
    assert f"the mask bytes 0x{first:02X} and 0x{second:02X}." in page
    bits = f"{second:08b}{first:08b}"[::-1]
    assert f"Without it they are {bits[:3]}, {bits[3:6]} and {bits[6:9]}," in page


def results_of(name: str) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return results


def test_how_far_results_vary_over_seeds() -> None:
    """As the file has it that the table of methods names."""
    by_method = groupby(
        sorted(results_of("quality-wikipedia-sample-2-4")["rows"], key=itemgetter("method")),
        key=itemgetter("method"),
    )
    drawn = {method: list(rows) for method, rows in by_method}
    shares = [
        100 * stdev(perplexities) / fmean(perplexities)
        for method, rows in drawn.items()
        for text in TEXTS
        if method not in ("dense", "magnitude") and (perplexities := [row[text] for row in rows])
    ]
    page = " ".join((ROOT / "docs" / "method.md").read_text().split())
    assert f"by {min(shares):.1f} to {max(shares):.1f}% in standard deviation" in page


def tables(page: str, section: str) -> list[list[list[str]]]:
    """The rows of cells below the heads of the tables that a section has."""
    (text,) = re.findall(
        rf"^#+ {section}\n(.*?)(?=^#|\Z)", (ROOT / "docs" / f"{page}.md").read_text(), re.M | re.S
    )
    found = re.findall(r"^\|(?:---\|)+\n((?:\|.*\n)+)", text, re.M)
    return [[re.split(r" \| ", row.strip("| ")) for row in rows.splitlines()] for rows in found]


def assert_shown(cell: str, *measured: float) -> None:
    """A cell has these figures, rounded; what need not be shown may follow."""
    figures = re.findall(r"[\d.]+", cell)
    assert 0 < len(figures) <= len(measured)
    for figure, number in zip(figures, measured, strict=False):
        assert f"{number:.{len(figure.partition('.')[2])}f}" == figure, (cell, measured)


def by_method(name: str) -> dict[str, dict[str, Any]]:
    """The means over seeds of a run of `benchmarks.quality`, by the names that the pages give methods."""
    return {row["method"].lower(): row for row in results_of(name)["means"]}


def as_in_results(method: str) -> str:
    return re.sub("[`,]", "", method).replace("'s ", " ").lower()


def test_every_method_has_its_own_figures() -> None:
    means = by_method("quality-wikipedia-sample-2-4")
    rows = results_of("quality-wikipedia-sample-2-4")["rows"]
    (table,) = tables("choosing", "Methods")
    assert {as_in_results(method) for method, *_ in table} == means.keys()
    for method, first, second, over, edges, seconds in table:
        mean = means[as_in_results(method)]
        for cell, text in zip((first, second), TEXTS, strict=True):
            assert_shown(cell, mean[text], mean[f"{text} ±"])
        assert_shown(over, mean["wikitext2-test / sparsegpt"])
        assert_shown(edges, min(row["fewest edges"] for row in rows if row["method"] == mean["method"]))
        assert_shown(seconds, mean["seconds"])


def test_every_pattern_has_its_own_figures() -> None:
    means = [by_method(f"quality-wikipedia-sample-{pattern}") for pattern in ("4-8", "1-4")]
    (table,) = tables("choosing", "Patterns")
    assert {as_in_results(method) for method, *_ in table} == means[0].keys() == means[1].keys()
    for method, *cells in table:
        measured = [of_pattern[as_in_results(method)][text] for of_pattern in means for text in TEXTS]
        for cell, number in zip(cells, measured, strict=True):
            assert_shown(cell, number)


def test_every_way_has_its_own_figures() -> None:
    ways = {row["way"]: row for row in results_of("layer_error")["rows"]}
    (table,) = tables("method", "Mask and weights together")
    assert {"SparseGPT", *(way for way, *_ in table)} == ways.keys()
    for way, *cells, held_out in table:
        layers = [key for key in ways[way] if key != "way" and not key.endswith("held out")]
        for cell, layer in zip(cells, layers, strict=True):
            assert_shown(cell, ways[way][layer])
        assert_shown(held_out, fmean(ways[way][f"{layer}, held out"] for layer in layers))


@pytest.mark.parametrize(("page", "sections", "figures"), [("choosing", ".*", 50), ("method", "Connectivity", 30)])
def test_the_figures_of_a_page_were_measured(page: str, sections: str, figures: int) -> None:
    """Each number in a table is in a file of results that its section names, rounded."""
    checked = 0
    for section in re.split("^## ", (ROOT / "docs" / f"{page}.md").read_text(), flags=re.MULTILINE):
        if not re.match(sections, section):
            continue
        results = re.findall(r"\.\./benchmarks/results/([\w-]+)\.md", section)
        measured = [
            number
            for name in results
            for number in numbers(json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text()))
        ]
        for cell in re.findall(r"(?<=\| )[^|`\n]+(?= \|)", section):
            for figure in re.findall(r"\d+(?:\.\d+)?", cell) if re.fullmatch(r"[\d.± to]+", cell) else []:
                digits = len(figure.partition(".")[2])
                assert any(f"{number:.{digits}f}" == figure for number in measured), (figure, results)
                checked += 1
    assert checked > figures


def numbers(value: Any) -> Iterator[float]:
    """All the numbers in a JSON document."""
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)
    elif isinstance(value, int | float):
        yield value
