"""How many workers a job has cost, its priority, and when a key had its last turn.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("workers_lost", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("api_keys", sa.Column("served_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_key_id_state", "jobs", ["key_id", "state"])


def downgrade() -> None:
    op.drop_index("ix_jobs_key_id_state", "jobs")
    op.drop_column("api_keys", "served_at")
    op.drop_column("jobs", "priority")
    op.drop_column("jobs", "workers_lost")
