"""The verbs that touch the database, the keys or the server itself, not the REST API: `db`, `keys`, `token`, `serve`.

What they call needs the `control` extra, and is imported when a verb runs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import MissingExtra, Noun, Verb
from sluicegate.schemas.settings import DATABASE_URL, SIGNING_KEY_FILE


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turn the absence of a server's package into MissingExtra, which says what to install."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sluicegate":
            raise
        raise MissingExtra(f"this needs the {name} extra: pip install 'sluicegate[{name}]'") from None


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

    _say_revision(migrate.upgrade(DATABASE_URL.read(os.environ), revision), as_json)


@db.command(
    short_help="Take tables back to an older revision; loses their data.", examples=("sluicegate db downgrade base",)
)
@click.argument("revision")
@options.json_output
def downgrade(*, revision: str, as_json: bool) -> None:
    """Take the tables back to REVISION; `base` leaves none. What a dropped table held is lost."""
    with needs_extra("control"):
        from sluicegate.control.store import migrate

    _say_revision(migrate.downgrade(DATABASE_URL.read(os.environ), revision), as_json)


@db.command(short_help="The revision that the database has.", examples=("sluicegate db current",))
@options.json_output
def current(*, as_json: bool) -> None:
    """The revision that the database has."""
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


@click.group(cls=Noun, short_help="The key that signs the state.")
def keys() -> None:
    """The Ed25519 key that signs the state: the private half in a file, the public half for the workers."""


@keys.command(
    short_help="Make a private key, print the public one.",
    examples=("sluicegate keys create /etc/sluicegate/signing.key",),
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@options.json_output
def create(*, file: Path | None, as_json: bool) -> None:
    """Make a private key in FILE (default: SLUICEGATE_SIGNING_KEY_FILE), print the public one. Never overwrites."""
    from sluicegate.control.publishing import signing_key as made

    path = file or SIGNING_KEY_FILE.read(os.environ)
    _say_key(path, made.create(path), as_json)


@keys.command(
    short_help="Print the public key of a private one.", examples=("sluicegate keys show /etc/sluicegate/signing.key",)
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@options.json_output
def show(*, file: Path | None, as_json: bool) -> None:
    """Print the public key of the private one in FILE (default: SLUICEGATE_SIGNING_KEY_FILE)."""
    from sluicegate.control.publishing import signing_key as made

    path = file or SIGNING_KEY_FILE.read(os.environ)
    _say_key(path, made.public_of(path), as_json)


@click.group(cls=Noun, short_help="Who may ask the control plane what.")
def token() -> None:
    """Who may ask the control plane what. A token's name is the actor in the audit."""


@token.command(
    "create",
    short_help="Make a token; it is shown once.",
    examples=("(umask 077; sluicegate token create alice --right operator > alice.token)",),
)
@click.argument("name")
@options.option(
    "--right",
    default="viewer",
    show_default=True,
    metavar="RIGHT",
    help="viewer reads, operator pauses and resumes, admin all.",
)
@options.json_output
def create_token(*, name: str, right: str, as_json: bool) -> None:
    """Make a token for NAME and print it. Only its digest is stored: it cannot be shown again."""
    from sluicegate.control.cli.render import terminal

    with needs_extra("control"):
        from sluicegate.control.access import tokens

    secret = tokens.create(DATABASE_URL.read(os.environ), name, right)
    if as_json:
        terminal.say_json({"name": name, "right": right, "token": secret})
    else:
        terminal.say(secret)
        terminal.note(f"the token of {name} ({right}): shown this once, put it where only {name} reads it")


@token.command(short_help="Make a token worthless, at once.", examples=("sluicegate token revoke alice",))
@click.argument("name")
@options.json_output
def revoke(*, name: str, as_json: bool) -> None:
    """Make the token of NAME worthless, at once."""
    from sluicegate.control.cli.render import terminal

    with needs_extra("control"):
        from sluicegate.control.access import tokens

    tokens.revoke(DATABASE_URL.read(os.environ), name)
    if as_json:
        terminal.say_json({"name": name, "revoked": True})
    else:
        terminal.say(f"revoked: the token of {name}")


def _say_revision(revision: str | None, as_json: bool) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"revision": revision})
    else:
        terminal.say(f"the database is at revision {revision}" if revision else "the database has no tables of ours")


def _say_key(path: Path, public: str, as_json: bool) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"file": str(path), "publicKey": public})
    else:
        terminal.say(public)
        terminal.note(f"the public key of {path}: workers trust it by SLUICEGATE_PUBLIC_KEYS={public}")


@click.command(cls=Verb, short_help="Run the control plane.", examples=(". .sluicegate/control.env; sluicegate serve",))
@options.json_output
def serve(*, as_json: bool) -> None:
    """Run the control plane in the foreground until SIGTERM or Ctrl-C; docs/settings.md lists what it reads."""
    with needs_extra("control"):
        from sluicegate.control.process import plane

    # The embedding process decides where a library's log goes; here we are that process.
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    plane.serve(os.environ, ready=lambda url: _say_serving(url, as_json))


def _say_serving(url: str, as_json: bool) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"url": url})
    else:
        terminal.say(f"the control plane answers at {url}")
