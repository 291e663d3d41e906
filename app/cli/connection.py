"""The service that a command talks to."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eggs_client import Eggs


def connect(url: str, key: str) -> "Eggs":
    """A client, to be used in a `with`."""
    # Only now: what needs no service starts sooner without it.
    from eggs_client import Eggs

    return Eggs(url, key)
