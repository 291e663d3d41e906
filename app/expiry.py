"""When something that opens the service is to end, as requests say it."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime

from app.db import utcnow

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)


def _still_to_come(moment: datetime) -> datetime:
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        moment = _LATEST
    if not utcnow() < moment < _LATEST:
        raise ValueError("It has to lie in the future, and before the year 9999.")
    return moment


Expiry = Annotated[AwareDatetime, AfterValidator(_still_to_come)]
"""A moment in UTC that is still to come."""
