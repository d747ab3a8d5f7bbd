"""The verb `health`: what workers hold themselves for, let go of by an operator."""

from __future__ import annotations

from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.holds.hold import check_reason


@click.group(cls=Noun, short_help="What workers hold themselves for: their GPUs, their host.")
def health() -> None:
    """Workers hold themselves for the health and the capacity of their GPUs and their host (docs/gpu-holds.md)."""


@health.command(
    "clear",
    short_help="Have a worker let go of what it holds itself for.",
    examples=(
        'sluicegate health clear --worker celery@gpu7 --reason "GPU 0 was replaced"',
        'sluicegate health clear --worker celery@gpu7 --rule gpu.xid --reason "the job was at fault"',
    ),
)
@options.option("--worker", metavar="NODENAME", required=True, help="The worker that holds itself.")
@options.option("--rule", metavar="RULE", help="One rule alone, such as gpu.lost.")
@options.reason
@options.connection
@options.json_output
@click.pass_context
def clear(
    ctx: click.Context,
    *,
    worker: str,
    rule: str | None,
    reason: str | None,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Have a worker let go of its own holds and judge anew; what it saw before counts no more. On record.

    Where what it reads is as bad as before, it holds itself again. Manual holds and those of other causes stay.
    """
    why = check_reason(reason)

    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.clear_health(worker, reason=why, rule=rule)
    if as_json:
        terminal.say_json(reply.raw)
    else:
        for line in state_lines.cleared(reply.body):
            terminal.say(line)
    ctx.exit(Exit.OK if reply.body.published else Exit.NOT_PUBLISHED)
