"""What a key may do and for how long, and who did what.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Keys made before could do everything that there was, which was to read and to write jobs.
    scopes = sa.Column("scopes", sa.String(length=64), nullable=False, server_default="jobs:read jobs:write")
    op.add_column("api_keys", scopes)
    op.add_column("api_keys", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "audit_entries",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("subject", sa.String(length=40), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_entries")),
    )
    op.create_index("ix_audit_entries_project_id", "audit_entries", ["project", "id"])


def downgrade() -> None:
    op.drop_table("audit_entries")
    op.drop_column("api_keys", "expires_at")
    op.drop_column("api_keys", "scopes")
