"""How databases are connected to."""

import pytest

from app.db import make_engine


@pytest.mark.parametrize(("query", "seconds"), [("", "5"), ("?connect_timeout=60", "60")])
def test_the_url_may_say_how_long_to_wait_for_a_connection(query: str, seconds: str) -> None:
    engine = make_engine(f"postgresql+psycopg://postgres@127.0.0.1/postgres{query}")
    _, options = engine.dialect.create_connect_args(engine.url)
    assert str(options["connect_timeout"]) == seconds
