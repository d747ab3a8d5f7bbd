"""When a hold's deadline came with work left, and its step began; and the ramp by which it is resumed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
usable_from = "0005"


def upgrade() -> None:
    op.add_column("holds", sa.Column("escalated_at", sa.DateTime(timezone=True)))
    op.add_column("holds", sa.Column("ramp", postgresql.JSONB))
    # Drains that a deadline made a quiesce before there was this column.
    op.execute(
        """update holds set escalated_at = deadline
        where "then" = 'quiesce' and mode = 'quiesce' and deadline is not null and deadline <= updated_at"""
    )


def downgrade() -> None:
    op.drop_column("holds", "ramp")
    op.drop_column("holds", "escalated_at")
