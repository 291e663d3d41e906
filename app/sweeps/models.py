"""Table of sweeps."""

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db import Base


class Sweep(Base):
    """Several trials over one model. How it stands is how its jobs stand, and is stored with them alone.

    But for its end, which is told of once; see `app.sweeps.completion`.
    """

    __tablename__ = "sweeps"
    __table_args__ = (Index(None, "project", "id"), Index(None, "completed_at"))

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(ForeignKey("api_keys.id"))
    name: Mapped[str | None] = mapped_column(String(128))
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata")
    model: Mapped[str] = mapped_column(String(1024))
    # In the order of the request: each with `change`, `label`, `job_id` and `place`, see `app.sweeps.service`.
    trials: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    completed_at: Mapped[datetime | None]
