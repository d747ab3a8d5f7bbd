"""One word for one thing (docs/glossary.md): a counted publication is no heartbeat; what stood at the pause says so."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("alter sequence snapshot_beats rename to snapshot_publications")
    op.alter_column("drains", "moment", new_column_name="at_pause")


def downgrade() -> None:
    op.alter_column("drains", "at_pause", new_column_name="moment")
    op.execute("alter sequence snapshot_publications rename to snapshot_beats")
