"""How long tasks took, so that the time until a fleet has drained can be estimated."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
usable_from = "0004"


def upgrade() -> None:
    op.create_table(
        "runtimes",
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("task", sa.Text, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("recent_s", postgresql.JSONB, nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("namespace", "task", name=op.f("pk_runtimes")),
    )


def downgrade() -> None:
    op.drop_table("runtimes")
