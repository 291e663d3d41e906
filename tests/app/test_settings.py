"""docs/settings.md has every setting, described as the code does."""

import re
from pathlib import Path

from app.settings import Settings


def test_the_page_on_settings_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    described = dict(re.findall(r"^\| `(EGGS_\w+)` \|.*?\| (.*) \|$", page, re.MULTILINE))
    assert described == {
        f"EGGS_{name.upper()}": field.description for name, field in Settings.model_fields.items()
    }
