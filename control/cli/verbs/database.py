"""The verb `db`: the database of SLUICEGATE_DATABASE_URL itself, not the REST API."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun, needs_extra
from sluicegate.schemas.settings import DATABASE_URL

if TYPE_CHECKING:
    from sluicegate.control.store.revisions import Revision


@click.group(
    cls=Noun,
    short_help="Bring the database to a revision; who may do what in it.",
)
def db() -> None:
    """Bring the database of SLUICEGATE_DATABASE_URL to a revision, and say who may do what in it."""


@db.command(short_help="Make the tables, or bring them up to date.", examples=("sluicegate db upgrade",))
@click.argument("revision", default="head")
@options.json_output
def upgrade(*, revision: str, as_json: bool) -> None:
    """Make the tables, or bring them up to REVISION (default: head). Safe to repeat."""
    with needs_extra("control"):
        from sluicegate.control.store import migrate

    url = DATABASE_URL.read(os.environ)
    migrate.upgrade(url, revision)
    _say_revision(migrate.current(url), as_json)


@db.command(
    short_help="Take tables back to an older revision; loses their data.", examples=("sluicegate db downgrade base",)
)
@click.argument("revision")
@options.json_output
def downgrade(*, revision: str, as_json: bool) -> None:
    """Take the tables back to REVISION; `base` leaves none. What a dropped table held is lost."""
    with needs_extra("control"):
        from sluicegate.control.store import migrate

    url = DATABASE_URL.read(os.environ)
    migrate.downgrade(url, revision)
    _say_revision(migrate.current(url), as_json, none="base")


@db.command(short_help="The revision that the database has.", examples=("sluicegate db current",))
@options.json_output
def current(*, as_json: bool) -> None:
    """The revision that the database has, and from which code revision on it can be used."""
    with needs_extra("control"):
        from sluicegate.control.store import migrate

    _say_revision(migrate.current(DATABASE_URL.read(os.environ)), as_json)


@db.command(
    short_help="Give a role what the control plane needs, and no more.",
    examples=("sluicegate db grant sluicegate_control",),
)
@click.argument("role")
@options.json_output
def grant(*, role: str, as_json: bool) -> None:
    """Give ROLE what the control plane needs, and take away what else it has of our tables. Safe to repeat.

    To be run as the tables' owner, after each upgrade. Tokens are made by the owner, not by ROLE.
    """
    from sluicegate.control.cli.render import terminal

    with needs_extra("control"):
        from sluicegate.control.store import grants

    granted = grants.grant(DATABASE_URL.read(os.environ), role)
    if as_json:
        terminal.say_json({"role": role, "granted": granted})
        return
    for name, privileges in granted.items():
        terminal.say(f"{name}: {privileges}")


def _say_revision(found: Revision, as_json: bool, none: str | None = None) -> None:
    """`none`: the word for a database without tables."""
    from sluicegate.control.cli.render import terminal
    from sluicegate.control.store import migrate

    number = found.number or none
    if as_json:
        terminal.say_json({"revision": number, "usableFrom": found.usable_from, "codeRevision": migrate.head()})
    elif number is None:
        terminal.say(f"the database has no tables of ours; this version's revision is {migrate.head()}")
    else:
        usable = f", which can be used from {found.usable_from} on" if found.usable_from else ""
        terminal.say(f"the database is at revision {number}{usable}; this version's is {migrate.head()}")
