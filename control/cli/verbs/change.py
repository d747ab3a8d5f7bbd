"""The verbs that change what is held: `pause` and `resume`. Also loaded by `celery`: see celery_plugin.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.spans import parse_span
from sluicegate.control.cli.verb import Interrupted, Verb
from sluicegate.schemas.errors import InvalidInput, Refused
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.holds.hold import STEPS, check_reason
from sluicegate.schemas.holds.ramps import Rate
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire, to_wire

if TYPE_CHECKING:
    from sluicegate.control.client import Client, Reply
    from sluicegate.schemas.api.bodies import ChangeAnswer


@click.command(
    cls=Verb,
    short_help="Let no worker start another task.",
    examples=(
        'sluicegate pause --reason "deploying 4.2"',
        'sluicegate pause --mode quiesce --reason "GPU firmware" --for 2h',
        'sluicegate pause --reason "deploying 4.2" --wait --timeout 5m',
        "sluicegate pause --scope host:gpu7 --dry-run",
        'sluicegate pause --reason "host goes down at ten" --deadline 30m --then quiesce --wait',
    ),
)
@options.option(
    "--mode",
    default="drain",
    show_default=True,
    metavar="MODE",
    help="drain: running tasks finish. quiesce: they also stop at their next checkpoint.",
)
@options.reason
@options.scope
@options.option("--for", "span", metavar="SPAN", help="Release the hold after SPAN, such as 90s, 30m or 2h.")
@options.option(
    "--until", "--expires-at", "expires_at", metavar="TIME", help="Release it at TIME: ISO-8601 with a zone."
)
@options.option("--deadline", metavar="SPAN", help="After SPAN, do with what still runs what --then says.")
@options.option("--then", metavar="STEP", help=f"What follows the deadline: {STEPS}.")
@options.option(
    "--dry-run", is_flag=True, help="Change nothing: show the workers, queues and tasks that it would touch."
)
@options.option("--wait", "is_waiting", is_flag=True, help="Return when the fleet has drained, showing progress.")
@options.option("--timeout", metavar="SPAN", help="With --wait: give up after SPAN (exit 3). Default: never.")
@options.connection
@options.json_output
@click.pass_context
def pause(
    ctx: click.Context,
    *,
    mode: str,
    reason: str | None,
    scope: str,
    span: str | None,
    expires_at: str | None,
    deadline: str | None,
    then: str | None,
    dry_run: bool,
    is_waiting: bool,
    timeout: str | None,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Let no worker start another task. Nothing is lost: what has not started goes back to its queue."""
    # Everything is checked before anything is asked: exit 2 means that no call was made.
    word = Mode.of_hold(mode).word
    # What changes nothing needs no reason.
    why = "" if dry_run else check_reason(reason)
    where = Scope.parse(scope)
    if span is not None and expires_at is not None:
        raise InvalidInput("for", "give --for or --until, not both")
    until = None if expires_at is None else to_wire(from_wire(expires_at, "until"))
    # Sent as the spans that they are: the clock of whoever asks may be wrong.
    span_s = None if span is None else parse_span(span, "for").total_seconds()
    deadline_s = None if deadline is None else parse_span(deadline, "deadline").total_seconds()
    if (deadline is None) != (then is None):
        raise InvalidInput("then" if deadline else "deadline", "--deadline and --then belong together")
    if timeout is not None and not is_waiting:
        raise InvalidInput("timeout", "belongs to --wait")
    if dry_run and is_waiting:
        raise InvalidInput("dry-run", "changes nothing that could be waited for")
    timeout_s = None if timeout is None else parse_span(timeout, "timeout").total_seconds()

    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if dry_run:
            ctx.exit(_previewed(client, where, as_json))
        reply = client.pause(
            mode=word,
            reason=why,
            scope=str(where),
            expires_at=until,
            expires_in_s=span_s,
            deadline_in_s=deadline_s,
            then=then,
        )
        if is_waiting:
            may_quiesce = Mode.QUIESCE.word in (word, then)
            ctx.exit(_waited(client, reply, where, may_quiesce, timeout_s, as_json))
        ctx.exit(_told(reply, where, as_json))


@click.command(
    cls=Verb,
    short_help="Release the manual hold.",
    examples=(
        'sluicegate resume --reason "4.2 is out"',
        'sluicegate resume --reason "cannot wait for the rest" --force',
        'sluicegate resume --reason "4.2 is out" --ramp 10%/s',
    ),
)
@options.reason
@options.scope
@options.option("--force", is_flag=True, help="Resume a drain that has not drained yet; the audit says so.")
@options.option("--ramp", metavar="RATE", help="Reopen worker by worker: 10%/s of them, 5/s or 30/m.")
@options.connection
@options.json_output
@click.pass_context
def resume(
    ctx: click.Context,
    *,
    reason: str | None,
    scope: str,
    force: bool,
    ramp: str | None,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Release the manual hold of a scope; holds of other causes stand.

    A drain that has not drained is resumed only with --force.
    """
    why = check_reason(reason)
    where = Scope.parse(scope)
    if ramp is not None:
        Rate.parse(ramp)

    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        try:
            reply = client.resume(reason=why, scope=str(where), force=force, ramp=ramp)
        except Refused as refusal:
            raise Refused(_with_figures(refusal), refusal.details) from None
        ctx.exit(_told(reply, where, as_json))


def _told(reply: Reply[ChangeAnswer], scope: Scope, as_json: bool) -> Exit:
    from sluicegate.control.cli.render import state_lines, terminal

    if as_json:
        terminal.say_json(reply.raw)
    else:
        for line in state_lines.outcome(reply.body, scope):
            terminal.say(line)
    return Exit.OK if reply.body.published else Exit.NOT_PUBLISHED


def _previewed(client: Client, scope: Scope, as_json: bool) -> Exit:
    from sluicegate.control.cli.render import preview_table, terminal

    reply = client.preview(str(scope))
    if as_json:
        terminal.say_json(reply.raw)
        return Exit.OK
    for line in preview_table.lines(reply.body):
        terminal.say(line)
    if reply.body.workers:
        terminal.table(preview_table.WORKER_HEAD, preview_table.worker_rows(reply.body))
    if reply.body.running:
        terminal.table(preview_table.TASK_HEAD, preview_table.task_rows(reply.body))
    return Exit.OK


def _waited(
    client: Client, reply: Reply[ChangeAnswer], scope: Scope, is_quiesce: bool, timeout_s: float | None, as_json: bool
) -> Exit:
    from sluicegate.control.cli import wait
    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.schemas.snapshots import Edition

    system = reply.body.system
    if not as_json:
        for line in state_lines.outcome(reply.body, scope):
            terminal.say(line)
    try:
        with terminal.progress(silent=as_json) as progress:
            target = Edition(system.epoch, system.version)
            verdict = wait.wait(
                client,
                target,
                timeout_s,
                progress,
                scope=scope,
                is_quiesce=is_quiesce,
                durations_s=wait.known_durations(client, scope),
            )
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: the pause stands (version {system.version}); "
            "`sluicegate status` shows it, `sluicegate resume` lifts it"
        ) from None
    if as_json:
        body: dict[str, Any] = reply.raw | {"wait": wait.to_json(verdict)}
        terminal.say_json(body)
    else:
        for line in wait.conclude(verdict):
            terminal.say(line)
    return wait.exit_of(verdict)


def _with_figures(refusal: Refused) -> str:
    """What the control plane refused, with the figures that it judged by and the option that overrides."""
    figures = refusal.details.get("metrics")
    if not isinstance(figures, dict):
        return str(refusal)
    running, stale = figures.get("running"), figures.get("staleRunning")
    return f"not drained yet: running {running}, stale {stale}; wait, or resume with --force"
