"""Bringing a database to a revision, with the Alembic scripts that the package carries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, text

from sluicegate.control.store.connection import connected
from sluicegate.schemas.errors import InvalidInput

SCRIPTS = "sluicegate.migrations:"

_ALEMBIC = threading.Lock()
"""Alembic hands its context to the scripts through module globals: one run at a time in a process."""


def upgrade(database_url: str, revision: str = "head") -> str:
    """Upgrades to `revision` and returns the one reached. Raises InvalidInput, InvalidSetting or Unavailable.

    Safe to run by several at once, and on a database that is already there.
    """
    with connected(database_url) as connection:
        _run(command.upgrade, connection, revision)
        return revision_of(connection) or ""


def downgrade(database_url: str, revision: str) -> str:
    """Downgrades to `revision` (`base`: nothing left) and returns it. The data of dropped tables is lost."""
    with connected(database_url) as connection:
        _run(command.downgrade, connection, revision)
        return revision_of(connection) or "base"


def current(database_url: str) -> str | None:
    """The revision that the database has; None where it has none of our tables. Raises Unavailable."""
    with connected(database_url) as connection:
        return revision_of(connection)


def revision_of(connection: Connection) -> str | None:
    """As `current`, on an open connection."""
    # Asked for first: a statement that fails would end the caller's transaction.
    if connection.execute(text("select to_regclass('alembic_version')")).scalar_one() is None:
        return None
    found: str | None = connection.execute(text("select version_num from alembic_version")).scalar()
    return found


@cache
def head() -> str:
    """The revision that this version of the code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    return config


def _run(step: Callable[[Config, str], None], connection: Connection, revision: str) -> None:
    config = _config()
    config.attributes["connection"] = connection
    try:
        with _ALEMBIC:
            step(config, revision)
            connection.commit()
    except CommandError as error:
        raise InvalidInput("revision", str(error)) from None
