"""Where a job's model is pushed to, and the token for it.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("push_to_hub", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("jobs", sa.Column("hub_token", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("jobs", "hub_token")
    op.drop_column("jobs", "push_to_hub")
