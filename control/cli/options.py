"""The options that verbs share, declared once. Imports nothing but click and the standard library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

# Celery sets `auto_envvar_prefix`, which would make a setting of every option: ours come from the options alone.


def option(*declarations: str, **attributes: Any) -> Callable[[F], F]:
    """As `click.option`, but never read from an environment variable that is not documented."""
    return click.option(*declarations, allow_from_autoenv=False, **attributes)


def json_output(verb: F) -> F:
    """`--json`."""
    return option("--json", "as_json", is_flag=True, help="Print JSON, errors included (those on stderr).")(verb)


def connection(verb: F) -> F:
    """Where the control plane is, and as whom: `--url` and `--token-file`. A token is never an argument."""
    verb = option(
        "--token-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Read the token from FILE instead of SLUICEGATE_TOKEN.",
    )(verb)
    return option("--url", metavar="URL", help="The control plane, instead of SLUICEGATE_URL.")(verb)


def reason(verb: F) -> F:
    """`--reason`: mandatory, but checked by the verb, so that its absence is one clear line."""
    return option("--reason", "-r", metavar="TEXT", help="Why. Required; it stands in the audit.")(verb)


def scope(verb: F) -> F:
    """`--scope`."""
    return option(
        "--scope",
        default="global",
        show_default=True,
        metavar="SCOPE",
        help="global, queue:NAME, host:NAME, worker:NODENAME, task:NAME or label:KEY=VALUE.",
    )(verb)
