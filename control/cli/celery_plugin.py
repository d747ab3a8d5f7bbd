"""`celery -A APP pause`, `resume` and `pause-status`: the same verbs under Celery's own command.

Celery imports this for every command it runs, in an installation that may have no more than the worker
needs, and prints a failed plugin where that fails. So this and what it imports (`orders`, `looks`, `verb`,
`options`, `spans`) need only click, the standard library and schemas; a verb imports the rest when it runs.

`status` is a command of Celery's own, which would win over ours without a word: hence `pause-status`.
"""

from __future__ import annotations

from sluicegate.control.cli.verb import Verb
from sluicegate.control.cli.verbs.change import pause, resume
from sluicegate.control.cli.verbs.show import status

__all__ = ["pause", "pause_status", "resume"]

pause_status = Verb(
    name="pause-status",
    callback=status.callback,
    params=status.params,
    help=status.help,
    short_help=status.short_help,
    examples=("celery -A APP pause-status", "celery -A APP pause-status --json"),
)
