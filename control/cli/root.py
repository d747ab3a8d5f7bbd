"""The `sluicegate` command: its verbs, and what ends the process."""

from __future__ import annotations

import sys

import click

from sluicegate.control.cli.verb import Noun, reported
from sluicegate.control.cli.verbs import audit, change, database, epoch, governors, health, keys, show, tokens
from sluicegate.control.cli.verbs.acl import acl
from sluicegate.control.cli.verbs.aside import aside
from sluicegate.control.cli.verbs.serve import serve
from sluicegate.control.cli.verbs.up import up
from sluicegate.schemas.version import VERSION

EXAMPLES = (
    ". .sluicegate/env                          # SLUICEGATE_URL and SLUICEGATE_TOKEN: where, and as whom",
    'sluicegate pause --reason "deploying 4.2" --wait',
    "sluicegate status",
    'sluicegate resume --reason "4.2 is out"',
)


def _print_version(ctx: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if not is_asked or ctx.resilient_parsing:
        return
    click.echo(f"sluicegate {VERSION}")
    ctx.exit()


@click.group(cls=Noun, examples=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
@click.option("--traceback", is_flag=True, help="Print where an unexpected error arose.")
def sluicegate(traceback: bool) -> None:
    """Pause and resume a fleet of Celery workers, and see that it obeys."""


for verb in (
    change.pause,
    change.resume,
    show.status,
    show.holds,
    show.workers,
    governors.governors,
    health.health,
    epoch.epoch,
    audit.audit,
    database.db,
    keys.keys,
    tokens.token,
    acl,
    aside,
    serve,
    up,
):
    sluicegate.add_command(verb)


def run() -> None:
    """Run the command of this process's arguments and exit."""
    try:
        # Not click's own handling: a verb that failed has said so already, in one line.
        with reported(as_json="--json" in sys.argv):
            code = sluicegate.main(prog_name="sluicegate", standalone_mode=False)
    except click.exceptions.Exit as end:
        code = end.exit_code
    sys.exit(code if isinstance(code, int) else 0)
