"""The verbs that look: `status`, `holds`, `workers`; and `workers forget`. `celery` loads them too."""

from __future__ import annotations

from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun, Verb
from sluicegate.schemas.holds import check_reason
from sluicegate.schemas.scopes import Scope

SHOWN_WORKERS = 20


@click.command(
    cls=Verb,
    short_help="What is held, and how far each worker has got.",
    examples=(
        "sluicegate status",
        "sluicegate status --scope queue:reports",
        "sluicegate status --json",
    ),
)
@options.scope
@options.connection
@options.json_output
def status(*, scope: str, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """What is held, by whom and why; the metrics of a scope; and how far each worker has got."""
    where = Scope.parse(scope)

    from sluicegate.control.cli import picture, screen
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply, fleet = client.read(str(where)), client.workers()
    if as_json:
        screen.say_json(reply.raw | fleet.raw)
        return
    system, workers = reply.body.system, fleet.body.workers
    screen.say(picture.scope_line(system, where))
    # The headline tells the manual global hold; any other is listed.
    if [hold for hold in system.holds if hold.cause != "manual" or hold.scope != "global"]:
        screen.table(picture.HOLD_HEAD, picture.hold_rows(system.holds))
    is_held = any(hold.scope in (str(where), "global") for hold in system.holds)
    screen.say(picture.measures(reply.body.metrics, is_paused=is_held))
    screen.say(picture.agreement(workers))
    if workers:
        screen.table(picture.WORKER_HEAD, picture.worker_rows(workers)[:SHOWN_WORKERS])
    if len(workers) > SHOWN_WORKERS:
        screen.say(f"and {len(workers) - SHOWN_WORKERS} more: sluicegate workers")
    for line in picture.warnings(workers):
        screen.say(line)


@click.command(cls=Verb, short_help="Every active hold.", examples=("sluicegate holds",))
@options.connection
@options.json_output
def holds(*, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Every active hold: what it holds, since when, by whom and why."""
    from sluicegate.control.cli import picture, screen
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.read()
    if as_json:
        screen.say_json({"version": reply.body.system.version, "holds": reply.raw["system"]["holds"]})
    elif reply.body.system.holds:
        screen.table(picture.HOLD_HEAD, picture.hold_rows(reply.body.system.holds))
    else:
        screen.say(f"no hold is active — version {reply.body.system.version}")


@click.group(
    cls=Noun,
    invoke_without_command=True,
    short_help="Every worker, and the version it applied.",
    examples=("sluicegate workers",),
)
@options.connection
@options.json_output
@click.pass_context
def workers(ctx: click.Context, *, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Every worker: its state, the version it applied, what it runs."""
    if ctx.invoked_subcommand is not None:
        if url is not None or token_file is not None or as_json:
            raise click.UsageError(f"options go after {ctx.invoked_subcommand!r}, not before it", ctx)
        return

    from sluicegate.control.cli import picture, screen
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        fleet = client.workers()
    if as_json:
        screen.say_json(fleet.raw)
        return
    screen.say(picture.agreement(fleet.body.workers))
    if fleet.body.workers:
        screen.table(picture.WORKER_HEAD, picture.worker_rows(fleet.body.workers))
    for line in picture.warnings(fleet.body.workers):
        screen.say(line)


@workers.command(
    short_help="Stop counting a worker that will not come back.",
    examples=('sluicegate workers forget celery@gone --reason "host scrapped"',),
)
@click.argument("nodename")
@options.reason
@options.connection
@options.json_output
def forget(*, nodename: str, reason: str | None, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Stop counting a worker that fell silent and will not come back; it counts again if it does."""
    why = check_reason(reason)

    from sluicegate.control.cli import screen
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        answer = client.forget(nodename, reason=why)
    if as_json:
        screen.say_json(answer)
    else:
        screen.say(f"forgotten: {nodename}")
