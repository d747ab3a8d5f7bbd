"""A version of tomorrow: the package as it is, copied, with one revision more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOMS = ("schemas", "workers", "control", "migrations")
ROOT = Path(__file__).parents[1]
REVISION = "0010"
_MIGRATION = '''"""A column that nobody needs yet."""

import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{revision}", "0009", None, None
usable_from = "{usable_from}"


def upgrade():
    op.add_column("holds", sa.Column("note", sa.Text))


def downgrade():
    op.drop_column("holds", "note")
'''


@dataclass(frozen=True, slots=True)
class NextVersion:
    """Where the copy lies. Its newest revision is `REVISION`."""

    path: Path

    @property
    def environ(self) -> dict[str, str]:
        """What makes a process run this version, and none of a caller's settings."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
        return {**ours, "PYTHONPATH": str(self.path)}

    def run(self, *arguments: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Runs `sluicegate` of this version."""
        command = [sys.executable, "-P", "-m", "sluicegate.control.cli", *arguments]
        return subprocess.run(
            command, env={**self.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
        )


def make(directory: Path, *, usable_from: str) -> NextVersion:
    """Makes the copy below `directory`; its revision can be used from `usable_from` on."""
    package = directory / f"next-{usable_from}" / "sluicegate"
    leave_out = shutil.ignore_patterns("__pycache__", *ROOMS)
    shutil.copytree(ROOT / "src/sluicegate", package, ignore=leave_out)
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room, ignore=shutil.ignore_patterns("__pycache__"))
    text = _MIGRATION.format(revision=REVISION, usable_from=usable_from)
    (package / "migrations/versions" / f"{REVISION}_next.py").write_text(text)
    return NextVersion(package.parent)
