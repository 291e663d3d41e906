"""Limits of a key's own, and which key has uploaded a file.

Revision ID: 0018
Revises: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_LIMITS = ("max_queued_jobs", "max_running_jobs", "max_upload_bytes", "max_stored_bytes")


def upgrade() -> None:
    for name in _LIMITS:
        op.add_column("api_keys", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("files", sa.Column("key_id", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("files", "key_id")
    for name in reversed(_LIMITS):
        op.drop_column("api_keys", name)
