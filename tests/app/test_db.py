"""How databases are connected to."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import make_url, text

from app.db import make_engine


@pytest.mark.parametrize(("query", "seconds"), [("", "5"), ("?connect_timeout=60", "60")])
def test_the_url_may_say_how_long_to_wait_for_a_connection(query: str, seconds: str) -> None:
    engine = make_engine(f"postgresql+psycopg://postgres@127.0.0.1/postgres{query}")
    _, options = engine.dialect.create_connect_args(engine.url)
    assert str(options["connect_timeout"]) == seconds


def test_moments_are_in_utc_whatever_the_server_takes_for_here(postgres_url: str) -> None:
    there = make_url(postgres_url).update_query_dict({"options": "-c timezone=Asia/Tokyo"})
    engine = make_engine(there.render_as_string(hide_password=False))
    with engine.connect() as connection:
        last = connection.scalar(text("SELECT '9999-12-31 23:59:59Z'::timestamptz"))
    engine.dispose()
    assert last == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
