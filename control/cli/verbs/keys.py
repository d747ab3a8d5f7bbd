"""The verb `keys`: the key that signs the state."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun
from sluicegate.schemas.settings import SIGNING_KEY_FILE


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
    from sluicegate.control.publishing import signing_key

    path = file or SIGNING_KEY_FILE.read(os.environ)
    _say_key(path, signing_key.create(path), as_json)


@keys.command(
    short_help="Print the public key of a private one.", examples=("sluicegate keys show /etc/sluicegate/signing.key",)
)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@options.json_output
def show(*, file: Path | None, as_json: bool) -> None:
    """Print the public key of the private one in FILE (default: SLUICEGATE_SIGNING_KEY_FILE)."""
    from sluicegate.control.publishing import signing_key

    path = file or SIGNING_KEY_FILE.read(os.environ)
    _say_key(path, signing_key.public_of(path), as_json)


def _say_key(path: Path, public: str, as_json: bool) -> None:
    from sluicegate.control.cli.render import terminal

    if as_json:
        terminal.say_json({"file": str(path), "publicKey": public})
    else:
        terminal.say(public)
        terminal.note(f"the public key of {path}: workers trust it by SLUICEGATE_PUBLIC_KEYS={public}")
