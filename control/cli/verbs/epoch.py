"""The verb `epoch`: what to do where workers stand by a state that the database knows nothing of."""

from __future__ import annotations

from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.holds.hold import check_reason


@click.group(cls=Noun, short_help="The life of the database: going on after a restore.")
def epoch() -> None:
    """The epoch counts the lives of the database: workers take nothing below what they have applied in another one."""


@epoch.command(
    "raise",
    short_help="Go above every edition that workers stand at.",
    examples=(
        'sluicegate epoch raise --reason "both stores were lost"',
        'sluicegate epoch raise --above 1.23 --reason "both stores were lost, and the workers are gone"',
    ),
)
@options.reason
@options.option("--above", metavar="EDITION", help="Go above EPOCH.VERSION, instead of what workers say.")
@options.connection
@options.json_output
@click.pass_context
def raise_(
    ctx: click.Context,
    *,
    reason: str | None,
    above: str | None,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Publish what is ordered above every edition that workers stand at. No hold is changed; on record.

    Workers then take what is ordered NOW: where the fleet was paused and no hold is in force any more, it runs. Pause
    first. Needs the right `admin`.
    """
    from sluicegate.schemas.api.epoch import edition_above

    why = check_reason(reason)
    edition_above(above)

    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.raise_epoch(reason=why, above=above)
    if as_json:
        terminal.say_json(reply.raw)
    else:
        for line in state_lines.raised(reply.body):
            terminal.say(line)
    ctx.exit(Exit.OK if reply.body.published else Exit.NOT_PUBLISHED)
