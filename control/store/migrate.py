"""Bringing a database to a revision, with the Alembic scripts that the package carries."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from sluicegate.control.store import replicas, revisions
from sluicegate.control.store.connection import connected
from sluicegate.control.store.revisions import Revision
from sluicegate.schemas.errors import DatabaseTooNew, InvalidInput, Refused, Unavailable

SCRIPTS = "sluicegate.migrations:"

_ALEMBIC = threading.Lock()
"""Alembic hands its context to the scripts through module globals: one run at a time in a process."""

_LOCK_NOT_AVAILABLE = "55P03"


def upgrade(database_url: str, revision: str = "head") -> str:
    """Upgrades to `revision` and returns the one reached. Raises InvalidInput, InvalidSetting or Unavailable.

    Safe to run by several at once, and on a database that is already there, or further, where this code can use it
    (else DatabaseTooNew). Refused while a control plane runs that could not go on afterwards.
    """
    with connected(database_url) as connection:
        found = revisions.read(connection)
        if revisions.is_newer(found, known()):
            revisions.refuse_unusable(found, known())
            return found.number or ""
        steps = _steps(revision, found.number or (), implicit_base=True)
        if steps:
            _refuse_while_used(connection, steps[0])
        _run(command.upgrade, connection, revision)
        return revisions.read(connection).number or ""


def downgrade(database_url: str, revision: str) -> str:
    """Downgrades to `revision` (`base`: nothing left) and returns it. The data of dropped tables is lost.

    Raises DatabaseTooNew where only a newer version knows the way back, else as `upgrade`.
    """
    with connected(database_url) as connection:
        found = revisions.read(connection)
        if revisions.is_newer(found, known()):
            raise DatabaseTooNew(
                f"the database is at revision {found.number}: only a version that has it can take it back,"
                f" and this one has {head()}"
            )
        steps = _steps(found.number or (), revision, select_for_downgrade=True)
        if steps:
            below = steps[-1].down_revision
            _refuse_while_used(connection, None if below is None else _scripts().get_revision(str(below)))
        _run(command.downgrade, connection, revision)
        return revisions.read(connection).number or "base"


def current(database_url: str) -> Revision:
    """The revision that the database has, and from which code on it can be used. Raises Unavailable."""
    with connected(database_url) as connection:
        return revisions.read(connection)


@cache
def known() -> tuple[str, ...]:
    """The revisions that this code knows, oldest first."""
    return tuple(reversed([script.revision for script in _scripts().walk_revisions()]))


def head() -> str:
    """The revision of this code: the newest that it knows."""
    return known()[-1]


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", SCRIPTS)
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _steps(upper: str | tuple[str, ...], lower: str | tuple[str, ...], **options: bool) -> Sequence[Script]:
    """The revisions between two, newest first; none where one is unknown, of which Alembic then says what it is."""
    with suppress(RevisionError, CommandError):
        return list(_scripts().iterate_revisions(upper, lower, **options))
    return ()


def _refuse_while_used(connection: Connection, target: Script | None) -> None:
    """Raises Refused where a control plane that was seen lately cannot work with `target` (None: no tables)."""
    reached = None if target is None else target.revision
    usable_from = None if target is None else target.module.usable_from
    stuck = [
        replica
        for replica in replicas.alive(connection)
        if replica.code_revision not in known()
        or not revisions.is_usable_by(replica.code_revision, reached=reached, usable_from=usable_from, known=known())
    ]
    if stuck:
        raise Refused(
            f"revision {reached or 'base'} cannot be used by control planes that run: {', '.join(map(str, stuck))};"
            f" stop them, or bring them to another version first (docs/upgrades.md)"
        )


def _run(step: Callable[[Config, str], None], connection: Connection, revision: str) -> None:
    connection.rollback()  # what was only read so far: Alembic begins a transaction of its own
    config = _config()
    config.attributes["connection"] = connection
    try:
        with _ALEMBIC:
            step(config, revision)
            connection.commit()
    except CommandError as error:
        raise InvalidInput("revision", str(error)) from None
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCK_NOT_AVAILABLE:
            raise
        raise Unavailable("Postgres: a table is in use by a long transaction; nothing was changed, try again") from None
