"""The drains: what ran and waited when a hold was placed, what became of it, and the receipt."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
usable_from = "0003"

MOMENT = sa.DateTime(timezone=True)

# Holds that were in force before this revision are followed from now on; their version is the last that made them.
FOLLOW_WHAT_HOLDS = """
insert into drains (hold_id, version, namespace, begun_at, tasks)
select holds.id, coalesce(max(event.version), 1), holds.namespace, holds.created_at, '[]'::jsonb
from holds left join control_events event on event.hold_id = holds.id and event.version is not null
where holds.released_at is null
group by holds.id
"""


def upgrade() -> None:
    op.create_table(
        "drains",
        sa.Column("hold_id", sa.Uuid, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("begun_at", MOMENT, nullable=False),
        sa.Column("moment", postgresql.JSONB),
        sa.Column("tasks", postgresql.JSONB, nullable=False),
        sa.Column("ended_at", MOMENT),
        sa.Column("ending", sa.Text),
        sa.Column("receipt", postgresql.JSONB),
        sa.PrimaryKeyConstraint("hold_id", "version", name=op.f("pk_drains")),
        sa.CheckConstraint("num_nulls(ended_at, ending) in (0, 2)", name=op.f("ck_drains_ended_at_and_how_together")),
    )
    op.create_index(
        "uq_drains_under_way",
        "drains",
        ["namespace", "hold_id"],
        unique=True,
        postgresql_where=sa.text("ended_at is null"),
    )
    op.execute(FOLLOW_WHAT_HOLDS)


def downgrade() -> None:
    op.drop_table("drains")
