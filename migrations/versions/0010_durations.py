"""An index that has all that is asked for how long jobs were queued and running.

Revision ID: 0010
Revises: 0009
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_finished_at_state_started_at_created_at",
        "jobs",
        ["finished_at", "state", "started_at", "created_at"],
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_finished_at_state_started_at_created_at", "jobs")
