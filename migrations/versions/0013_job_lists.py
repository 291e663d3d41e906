"""What lists of jobs are filtered and sorted by.

Revision ID: 0013
Revises: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = {"model": 1024, "method": 32}


def upgrade() -> None:
    # SQLite adds no stored columns to a table that is there, PostgreSQL has no others before version 18.
    stored = op.get_bind().dialect.name == "postgresql"
    for name, length in _COLUMNS.items():
        kept = sa.Computed(f"spec ->> '{name}'", persisted=stored)
        op.add_column("jobs", sa.Column(name, sa.String(length=length), kept, nullable=True))
        op.create_index(f"ix_jobs_project_{name}_id", "jobs", ["project", name, "id"])


def downgrade() -> None:
    for name in _COLUMNS:
        op.drop_index(f"ix_jobs_project_{name}_id", "jobs")
        op.drop_column("jobs", name)
