"""The database says from which code revision on it can be used; and one word for one thing (docs/glossary.md).

A counted publication is no heartbeat, and what stood at the pause says so: the two renames are why code of before this
revision cannot go on with it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
usable_from = "0006"


def upgrade() -> None:
    op.execute("alter sequence snapshot_beats rename to snapshot_publications")
    op.alter_column("drains", "moment", new_column_name="at_pause")
    # One row; `migrations/env.py` writes into it what each revision declares, this one too.
    op.create_table(
        "compatibility",
        sa.Column("is_the_row", sa.Boolean, nullable=False),
        sa.Column("usable_from", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("is_the_row", name=op.f("pk_compatibility")),
        sa.CheckConstraint("is_the_row", name=op.f("ck_compatibility_there_is_one_row")),
    )


def downgrade() -> None:
    op.drop_table("compatibility")
    op.alter_column("drains", "at_pause", new_column_name="moment")
    op.execute("alter sequence snapshot_publications rename to snapshot_beats")
