"""The verb `token`: who may ask the control plane what. It asks the database, not the REST API."""

from __future__ import annotations

import os

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun, needs_extra
from sluicegate.schemas.settings import DATABASE_URL


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
