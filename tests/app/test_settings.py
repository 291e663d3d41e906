"""Settings: docs/settings.md has every one, described as the code does; and addresses that are none."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_the_page_on_settings_is_complete() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    described = dict(re.findall(r"^\| `(EGGS_\w+)` \|.*?\| (.*) \|$", page, re.MULTILINE))
    assert described == {
        f"EGGS_{name.upper()}": field.description for name, field in Settings.model_fields.items()
    }


@pytest.mark.parametrize(
    "url",
    [
        "mysql://eggs@db/eggs",
        "postgresql+asyncpg://eggs@db/eggs",
        "postgresql+psycopg://eggs:with@sign@db:port/eggs",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "nonsense",
        "nonsense://a",
        "redis://a:many",
    ],
)
def test_what_is_no_address_of_a_database_that_lasts(url: str) -> None:
    with pytest.raises(ValidationError, match="neither sqlite:///PATH nor postgresql"):
        Settings(database_url=url)
