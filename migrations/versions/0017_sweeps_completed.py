"""When sweeps have ended, and that webhooks are told of it.

Revision ID: 0017
Revises: 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_sweeps_completed_at", "sweeps", ["completed_at"])
    op.add_column("webhook_deliveries", sa.Column("sweep_id", sa.String(length=40), nullable=True))
    # What ended before anybody could ask to be told of it is old news.
    op.execute(
        sa.text(
            "UPDATE sweeps SET completed_at = (SELECT max(finished_at) FROM jobs WHERE sweep_id = sweeps.id) "
            "WHERE NOT EXISTS "
            "(SELECT 1 FROM jobs WHERE sweep_id = sweeps.id AND state NOT IN ('succeeded', 'failed', 'cancelled'))"
        )
    )


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM webhook_deliveries WHERE sweep_id IS NOT NULL"))
    op.drop_column("webhook_deliveries", "sweep_id")
    op.drop_index("ix_sweeps_completed_at", "sweeps")
    op.drop_column("sweeps", "completed_at")
