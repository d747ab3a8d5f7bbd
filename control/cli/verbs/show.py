"""The verbs that look: `status`, `holds`, `workers`; and `workers forget`. `celery` loads them too."""

from __future__ import annotations

from pathlib import Path

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun, Verb
from sluicegate.schemas.errors import NotFound
from sluicegate.schemas.holds.hold import check_reason
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

    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply, fleet = client.read(str(where)), client.workers()
    if as_json:
        terminal.say_json(reply.raw | fleet.raw)
        return
    system, workers = reply.body.system, fleet.body.workers
    terminal.say(state_lines.scope_line(system, where))
    # The headline tells the manual global hold; any other is listed.
    if [hold for hold in system.holds if hold.cause != "manual" or hold.scope != "global"]:
        terminal.table(state_lines.HOLD_HEAD, state_lines.hold_rows(system.holds))
    is_held = any(hold.scope in (str(where), "global") for hold in system.holds)
    terminal.say(state_lines.measures(reply.body.metrics, is_paused=is_held))
    terminal.say(state_lines.agreement(workers))
    if workers:
        terminal.table(state_lines.WORKER_HEAD, state_lines.worker_rows(workers)[:SHOWN_WORKERS])
    if len(workers) > SHOWN_WORKERS:
        terminal.say(f"and {len(workers) - SHOWN_WORKERS} more: sluicegate workers")
    idle = list(state_lines.idle(workers))
    for line in idle[:SHOWN_WORKERS]:
        terminal.say(line)
    if len(idle) > SHOWN_WORKERS:
        terminal.say(f"and {len(idle) - SHOWN_WORKERS} more: sluicegate workers")
    for line in (*state_lines.warnings(workers), *state_lines.unheard(reply.body.metrics)):
        terminal.say(line)


@click.group(
    cls=Noun,
    invoke_without_command=True,
    short_help="Every active hold.",
    examples=("sluicegate holds", "sluicegate holds show --scope queue:reports"),
)
@options.connection
@options.json_output
@click.pass_context
def holds(ctx: click.Context, *, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Every active hold: what it holds, since when, by whom and why."""
    if ctx.invoked_subcommand is not None:
        _check_no_options_before(ctx, url, token_file, as_json)
        return

    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.read()
    if as_json:
        terminal.say_json({"version": reply.body.system.version, "holds": reply.raw["system"]["holds"]})
    elif reply.body.system.holds:
        terminal.table(state_lines.HOLD_HEAD, state_lines.hold_rows(reply.body.system.holds))
    else:
        terminal.say(f"no hold is active — version {reply.body.system.version}")


@holds.command(
    short_help="What ran when a hold was placed, and what became of it.",
    examples=(
        "sluicegate holds show",
        "sluicegate holds show --scope queue:reports",
        "sluicegate holds show 4b2d6c1e-5a6f-4c0e-9f0a-7d1c2b3a4e5f",
    ),
)
@click.argument("hold_id", required=False, metavar="[ID]")
@options.scope
@options.connection
@options.json_output
def show(*, hold_id: str | None, scope: str, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """What ran and waited when a hold was placed, what became of it, and the drain receipt.

    Without ID: the manual hold of a scope that is in force.
    """
    where = Scope.parse(scope)

    from sluicegate.control.cli.render import hold_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if hold_id is None:
            active = client.read().body.system.holds
            hold_id = next((h.id for h in active if (h.scope, h.cause) == (str(where), "manual")), None)
            if hold_id is None:
                raise NotFound(f"no manual hold is in force on {where}: name one by its id (`audit --json`: holdId)")
        reply = client.hold(hold_id)
    if as_json:
        terminal.say_json(reply.raw)
        return
    answer = reply.body
    terminal.say(hold_lines.headline(answer.hold))
    if answer.at_pause is None:
        terminal.say("the fleet could not be looked at yet: what ran then is not known")
    else:
        terminal.say(hold_lines.queues(answer.at_pause))
        terminal.table(hold_lines.THEN_HEAD, hold_lines.then_rows(answer.at_pause))
    if answer.tasks:
        terminal.table(hold_lines.TASK_HEAD, hold_lines.task_rows(answer.tasks))
    for line in hold_lines.endings(answer):
        terminal.say(line)


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
    """Every worker: its state, the version it applied, what it runs; its host and GPUs."""
    if ctx.invoked_subcommand is not None:
        _check_no_options_before(ctx, url, token_file, as_json)
        return

    from sluicegate.control.cli.render import resource_lines, state_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        fleet = client.workers()
    if as_json:
        terminal.say_json(fleet.raw)
        return
    terminal.say(state_lines.agreement(fleet.body.workers))
    if fleet.body.workers:
        terminal.table(state_lines.WORKER_HEAD, state_lines.worker_rows(fleet.body.workers))
    if resources := resource_lines.rows(fleet.body.workers):
        terminal.table(resource_lines.HEAD, resources)
    for line in state_lines.idle(fleet.body.workers):
        terminal.say(line)
    for line in (*state_lines.warnings(fleet.body.workers), *resource_lines.warnings(fleet.body.workers)):
        terminal.say(line)


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

    from sluicegate.control.cli.render import terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.forget(nodename, reason=why)
    if as_json:
        terminal.say_json(reply.raw)
    else:
        terminal.say(f"forgotten: {nodename}")


def _check_no_options_before(ctx: click.Context, url: str | None, token_file: Path | None, as_json: bool) -> None:
    if url is not None or token_file is not None or as_json:
        raise click.UsageError(f"options go after {ctx.invoked_subcommand!r}, not before it", ctx)
