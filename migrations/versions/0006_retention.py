"""Where files are kept, and until when; jobs of a project by state.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("artifacts_expire_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_jobs_artifacts_expire_at", "jobs", ["artifacts_expire_at"])
    op.create_index("ix_jobs_project_state_id", "jobs", ["project", "state", "id"])
    op.create_table(
        "stored_locations",
        sa.Column("location", sa.String(length=128), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_stored_locations_job_id_jobs")),
        sa.PrimaryKeyConstraint("location", name=op.f("pk_stored_locations")),
    )
    op.create_index("ix_stored_locations_job_id", "stored_locations", ["job_id"])
    op.execute(
        "INSERT INTO stored_locations (location, job_id) "
        "SELECT artifacts_dir, id FROM jobs WHERE artifacts_dir IS NOT NULL"
    )


def downgrade() -> None:
    op.drop_table("stored_locations")
    op.drop_index("ix_jobs_project_state_id", "jobs")
    op.drop_index("ix_jobs_artifacts_expire_at", "jobs")
    op.drop_column("jobs", "artifacts_expire_at")
