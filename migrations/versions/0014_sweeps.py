"""Sweeps: several jobs over one model. Idempotency keys are theirs too.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_KEYS_JOB = "fk_idempotency_keys_job_id_jobs"


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("project", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=True),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("model", sa.String(length=1024), nullable=False),
        sa.Column("trials", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], name=op.f("fk_sweeps_key_id_api_keys")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sweeps")),
    )
    op.create_index(op.f("ix_sweeps_project_id"), "sweeps", ["project", "id"])
    op.add_column("jobs", sa.Column("sweep_id", sa.String(length=40), nullable=True))
    op.create_index(op.f("ix_jobs_sweep_id_id"), "jobs", ["sweep_id", "id"])
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.drop_constraint(op.f(_KEYS_JOB), type_="foreignkey")


def downgrade() -> None:
    op.execute(sa.text("DELETE FROM idempotency_keys WHERE job_id NOT IN (SELECT id FROM jobs)"))
    with op.batch_alter_table("idempotency_keys") as keys:
        keys.create_foreign_key(op.f(_KEYS_JOB), "jobs", ["job_id"], ["id"], ondelete="CASCADE")
    op.drop_index(op.f("ix_jobs_sweep_id_id"), "jobs")
    op.drop_column("jobs", "sweep_id")
    op.drop_index(op.f("ix_sweeps_project_id"), "sweeps")
    op.drop_table("sweeps")
