"""The verbs that change what is held: `pause` and `resume`. Also loaded by `celery`: see celery_plugin.py."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Interrupted, Verb
from sluicegate.schemas.errors import InvalidInput, Refused
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.holds.hold import STEPS, Then
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.spans import parse_span

if TYPE_CHECKING:
    from sluicegate.control.client import Client, Reply
    from sluicegate.schemas.api.orders import Order
    from sluicegate.schemas.api.pausing import ChangeAnswer


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
@options.option(
    "--allow-empty",
    is_flag=True,
    help="With --wait: it is well where nobody is there, or not all are heard (else exit 10).",
)
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
    allow_empty: bool,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Let no worker start another task. Nothing is lost: what has not started goes back to its queue."""
    # Everything is checked before anything is asked: exit 2 means that no call was made.
    order = _order(
        action="pause",
        mode=mode,
        # What changes nothing needs no reason.
        reason="dry run" if dry_run else reason,
        scope=scope,
        expires_at=expires_at,
        # Sent as the spans that they are: the clock of whoever asks may be wrong.
        expires_in_s=_seconds(span, "for"),
        deadline_in_s=_seconds(deadline, "deadline"),
        then=then,
    )
    for option, is_given in (("timeout", timeout is not None), ("allow-empty", allow_empty)):
        if is_given and not is_waiting:
            raise InvalidInput(option, "belongs to --wait")
    if dry_run and is_waiting:
        raise InvalidInput("dry-run", "changes nothing that could be waited for")
    timeout_s = _seconds(timeout, "timeout")

    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if dry_run:
            ctx.exit(_previewed(client, order.scope, as_json))
        reply = _send(client, order)
        if is_waiting:
            ctx.exit(_waited(client, reply, order, timeout_s, as_json, allows_empty=allow_empty))
        ctx.exit(_told(reply, order.scope, as_json))


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
    order = _order(action="resume", reason=reason, scope=scope, force_resume=force, ramp=ramp)

    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        try:
            reply = _send(client, order)
        except Refused as refusal:
            raise Refused(_with_figures(refusal), refusal.details) from None
        ctx.exit(_told(reply, order.scope, as_json))


_CALLED = {"expiresAt": "until", "expiresInS": "for", "deadlineInS": "deadline"}
"""The options that are called otherwise than the fields of a request."""


def _order(**wanted: Any) -> Order:
    """The order that options spell, by the fields of `PauseRequest`; raises InvalidInput naming the option."""
    from sluicegate.schemas.api.orders import order_of
    from sluicegate.schemas.api.pausing import PauseRequest

    return order_of(PauseRequest(**wanted), _CALLED)


def _seconds(span: str | None, option: str) -> float | None:
    return None if span is None else parse_span(span, option).total_seconds()


def _send(client: Client, order: Order) -> Reply[ChangeAnswer]:
    from sluicegate.schemas.api.orders import request_of

    return client.change(request_of(order))


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
    client: Client,
    reply: Reply[ChangeAnswer],
    order: Order,
    timeout_s: float | None,
    as_json: bool,
    *,
    allows_empty: bool,
) -> Exit:
    from sluicegate.control.cli import wait
    from sluicegate.control.cli.render import state_lines, terminal
    from sluicegate.schemas.snapshots import Edition

    system = reply.body.system
    if not as_json:
        for line in state_lines.outcome(reply.body, order.scope):
            terminal.say(line)
    try:
        with terminal.progress(silent=as_json) as progress:
            target = Edition(system.epoch, system.version)
            verdict = wait.wait(
                client,
                target,
                timeout_s,
                progress,
                scope=order.scope,
                is_quiesce=order.mode is Mode.QUIESCE or order.then is Then.QUIESCE,
                allows_empty=allows_empty,
                durations_s=wait.known_durations(client, order.scope),
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
