"""What the documents say of tests: those they name are there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_the_tests_that_a_document_names_are_there(document: Path) -> None:
    for file, test in NAMED.findall(document.read_text()):
        assert (ROOT / file).is_file(), file
        assert f"def {test}" in (ROOT / file).read_text(), f"{file}::{test}"


def test_the_page_on_security_names_tests() -> None:
    rows = [line for line in (ROOT / "docs" / "security.md").read_text().splitlines() if line.startswith("| ")]
    assert len(rows) > 20
    assert all(NAMED.search(row) or row.endswith("| Shown by |") for row in rows)
