"""The verb `audit`: what the control plane tells of the audit; and what the database's own chain proves of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun, needs_extra
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.settings import DATABASE_URL
from sluicegate.schemas.spans import parse_span
from sluicegate.schemas.times import from_wire, to_wire

if TYPE_CHECKING:
    from sluicegate.schemas.api.audit import EventBody

AUDIT_HEAD = ("ID", "AT", "BY", "ACTION", "OUTCOME", "VERSION", "SCOPE", "MODE", "REASON")
SHOWN_EVERY = 100_000
"""Events between two lines of progress where lines cannot be replaced."""


@click.group(
    cls=Noun,
    invoke_without_command=True,
    short_help="Who changed what, when and why.",
    examples=(
        "sluicegate audit --since 2h",
        "sluicegate audit --actor alice --action pause --limit 10",
    ),
)
@options.option("--since", metavar="TIME", help="From TIME on: ISO-8601 with a zone, or a span ago such as 2h.")
@options.option("--until", metavar="TIME", help="Before TIME, spelled as for --since.")
@options.option("--actor", metavar="NAME", help="Only what NAME did.")
@options.option("--action", metavar="ACTION", help="Only this action, such as pause or resume.")
@options.option("--cause", metavar="CAUSE", help="Only this cause, such as manual.")
@options.option("--scope", metavar="SCOPE", help="Only this scope, such as global.")
@options.option("--worker", metavar="NODENAME", help="Only what concerns this worker.")
@options.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@options.option("--offset", type=click.IntRange(0), default=0, show_default=True, help="Leave out the newest so many.")
@options.connection
@options.json_output
@click.pass_context
def audit(
    ctx: click.Context,
    *,
    since: str | None,
    until: str | None,
    actor: str | None,
    action: str | None,
    cause: str | None,
    scope: str | None,
    worker: str | None,
    limit: int,
    offset: int,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """The audit events, newest first. The filters add up."""
    if ctx.invoked_subcommand is not None:
        if any(ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ctx.params):
            raise click.UsageError(f"options go after {ctx.invoked_subcommand!r}, not before it", ctx)
        return

    wanted = {
        "since": _instant(since, "since"),
        "until": _instant(until, "until"),
        "actor": actor,
        "action": action,
        "cause": cause,
        "scope": scope,
        "worker": worker,
        "limit": limit,
        "offset": offset,
    }

    from sluicegate.control.cli.render import terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.audit({name: value for name, value in wanted.items() if value is not None})
    if as_json:
        terminal.say_json(reply.raw)
        return
    rows = [_row(event) for event in reply.body.events]
    if rows:
        terminal.table(AUDIT_HEAD, rows)
    terminal.say(f"{len(rows)} of {reply.body.total}" + (f", from {offset}" if offset else ""))


@audit.command(
    short_help="Is the audit what was recorded?",
    examples=(
        "sluicegate audit verify",
        "sluicegate audit verify --head head-of-last-month.json",
    ),
)
@options.option(
    "--head",
    "head_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What `audit head` once printed: it must still be in the chain.",
)
@options.json_output
def verify(*, head_file: Path | None, as_json: bool) -> None:
    """Walk the chain of all events in the database of SLUICEGATE_DATABASE_URL; name the first that is not as recorded.

    It asks the database, not the control plane, and needs no right but to read. Without --head it cannot know of
    events that were removed from the end and made no version, nor of a chain that was written anew as a whole.
    """
    from sluicegate.control.cli.render import terminal

    with needs_extra("control"):
        from sluicegate.control.audit import verification as kept
        from sluicegate.control.audit.chain import Head

    exported = None if head_file is None else Head.parse(_text_of(head_file))
    with terminal.progress(silent=as_json) as shown:
        head = kept.verify(
            DATABASE_URL.read(os.environ),
            exported,
            lambda done, total: shown.show(f"{done:,} of {total:,} events", done // SHOWN_EVERY),
        )
    if as_json:
        terminal.say_json({"verified": True, "events": head.position, "head": head.to_wire()})
    else:
        terminal.say(f"verified: {head.position:,} events are as recorded; head {head}")


@audit.command(
    "head",
    short_help="Where the audit ends, to be kept elsewhere.",
    examples=("sluicegate audit head --json > head.json",),
)
@options.json_output
def print_head(*, as_json: bool) -> None:
    """Print the position and the hash of the last event in the database of SLUICEGATE_DATABASE_URL.

    Kept where the database's owner cannot reach it, it lets `audit verify --head` see what was removed or written
    anew since.
    """
    from sluicegate.control.cli.render import terminal

    with needs_extra("control"):
        from sluicegate.control.audit import verification as kept

    head = kept.head(DATABASE_URL.read(os.environ))
    if as_json:
        terminal.say_json(head.to_wire())
    else:
        terminal.say(str(head))


def _text_of(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInput("head", f"{file} cannot be read: {why}") from None


def _instant(text: str | None, field: str) -> str | None:
    if text is None:
        return None
    try:
        return to_wire(datetime.now(UTC) - parse_span(text, field))
    except InvalidInput:
        return to_wire(from_wire(text, field))


def _row(event: EventBody) -> Sequence[object]:
    """The cells under AUDIT_HEAD."""
    from sluicegate.control.cli.render.state_lines import stamp

    where = (event.version, event.scope, event.mode, event.reason)
    dashed = ("-" if value is None else value for value in where)
    return (event.id, stamp(event.created_at), event.actor, event.action, event.outcome, *dashed)
