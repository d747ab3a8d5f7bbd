"""`sluicegate up`: a whole sluicegate on this machine, in the foreground."""

from __future__ import annotations

import getpass
import os
import shlex
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Verb, needs_extra
from sluicegate.schemas.errors import Unavailable
from sluicegate.schemas.holds.hold import check_actor
from sluicegate.schemas.settings import LEASE_S, NAMESPACE, REPUBLISH_INTERVAL_MS, STATE_DIR

if TYPE_CHECKING:
    from sluicegate.control.process.stack import Stack

LOOK_EVERY_S = 0.5


@click.command(
    cls=Verb,
    short_help="Postgres, Valkey and the control plane, here and now.",
    examples=(
        "sluicegate up",
        ". .sluicegate/env; sluicegate status      # in another shell",
    ),
)
@options.option("--actor", metavar="NAME", help="Whose name stands in the audit. Default: your login name.")
@options.json_output
def up(*, actor: str | None, as_json: bool) -> None:
    """Run Postgres, Valkey and the control plane on this machine until Ctrl-C or SIGTERM.

    Everything lies in SLUICEGATE_STATE_DIR (default .sluicegate) and is there again at the next start. Its
    file `env` holds what workers and commands in another shell need. For trying out, developing and testing:
    who reaches this machine's loopback address reaches the database.
    """
    owner = check_actor(actor if actor is not None else _login(), "actor")
    state_dir = STATE_DIR.read(os.environ)
    overrides = _overrides(os.environ)
    with needs_extra("control"):
        from sluicegate.control.process.stack import Stack

    stack = Stack(state_dir, actor=owner, overrides=overrides)
    stop = _Stop()
    try:
        stack.start()
        stop.interrupts = False
    except KeyboardInterrupt:
        return  # asked to stop before it was up: `start` has undone what it had done
    try:
        _say_up(stack, state_dir, as_json)
        while not stop.is_asked.wait(LOOK_EVERY_S):
            if lost := stack.lost_part():
                raise Unavailable(f"{lost} ended by itself (see the logs in {stack.state_dir}): stopping the rest")
        if not as_json:
            _say("stopping")
    finally:
        stack.stop()


class _Stop:
    """SIGINT, SIGTERM and SIGHUP: break into the start (once, so that undoing it is left alone), else just ask."""

    def __init__(self) -> None:
        self.is_asked = threading.Event()
        self.interrupts = True
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.is_asked.set()
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "owner"  # a user id without a name, as in some containers


def _overrides(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings of the control plane that are the user's to choose here, checked before anything starts."""
    chosen = {}
    for setting in (NAMESPACE, LEASE_S, REPUBLISH_INTERVAL_MS):
        chosen[setting.name] = str(setting.read(environ))
    return chosen


def _say_up(stack: Stack, state_dir: Path, as_json: bool) -> None:
    if as_json:
        from sluicegate.control.cli.render import terminal

        terminal.say_json(
            {
                "url": stack.url,
                "stateDir": str(stack.state_dir),
                "envFile": str(stack.env_file),
                "postgres": stack.postgres.url,
                "valkey": stack.valkey.url.rpartition("/")[0],
            }
        )
        return
    for line in _lines(stack, state_dir):
        _say(line)


def _lines(stack: Stack, state_dir: Path) -> Iterator[str]:
    env = state_dir / "env"
    # `.` looks for a bare name on PATH; a path with a slash it takes as it is.
    source = f". {shlex.quote(str(env) if env.is_absolute() or '/' in str(env) else f'./{env}')}"
    yield f"sluicegate is up; its state and logs are in {stack.state_dir}"
    yield f"  control plane  {stack.url}"
    yield f"  Postgres       {stack.postgres.url}"
    yield f"  Valkey         {stack.valkey.url.rpartition('/')[0]} (database 0: pause state, 1: Celery broker)"
    yield "in another shell:"
    yield f"  {source}"
    yield "  celery -A YOURAPP worker                        # broker=SLUICEGATE_BROKER_URL, sluicegate.install(app)"
    yield '  sluicegate pause --mode drain --reason "a try"'
    yield "  sluicegate status"
    yield f"{stack.actor} is the actor. Ctrl-C stops everything; what is held and queued stays."


def _say(line: str) -> None:
    from sluicegate.control.cli.render import terminal

    terminal.say(line)
