"""A verb: a click command whose every failure is one clear line and a documented exit code.

The same verb hangs under `sluicegate` and under `celery -A APP`, so that the handling lives in the command,
not in a main function. Imports nothing but click, the standard library and schemas (celery_plugin.py says why).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from sluicegate.schemas.errors import (
    AuditBroken,
    InvalidInput,
    InvalidSetting,
    InvalidSettings,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    Refused,
    SluicegateError,
    Unavailable,
)
from sluicegate.schemas.exits import Exit
from sluicegate.schemas.printable import printable, printable_json
from sluicegate.schemas.settings import lines_of

DEFECT = 1
"""What no verb should ever exit with: an error that nobody foresaw."""
INTERRUPTED = 130
"""By Ctrl-C, as shells count it: 128 + SIGINT."""

_JSON = "sluicegate.as_json"
_EXITS: tuple[tuple[type[SluicegateError], Exit], ...] = (
    (NotAuthenticated, Exit.NOT_ALLOWED),
    (NotAllowed, Exit.NOT_ALLOWED),
    (NotFound, Exit.REFUSED),
    (Refused, Exit.REFUSED),
    (Unavailable, Exit.UNREACHABLE),
    (AuditBroken, Exit.AUDIT_BROKEN),
    (InvalidInput, Exit.USAGE),
)


class MissingExtra(SluicegateError):
    """The verb needs a part of the distribution that is not installed."""

    code = "missing_extra"


class Interrupted(SluicegateError):
    """Ctrl-C, at a moment when there is something to say about what stands."""

    code = "interrupted"


def exit_of(error: BaseException) -> int:
    """The exit code that `error` ends a verb with."""
    # The control plane's refusal of a value is told apart from our own: nothing was asked of it then.
    if getattr(error, "is_from_server", False):
        return Exit.REFUSED
    if isinstance(error, click.ClickException | MissingExtra):
        return Exit.USAGE
    if isinstance(error, KeyboardInterrupt | click.Abort | Interrupted):
        return INTERRUPTED
    return next((int(code) for kind, code in _EXITS if isinstance(error, kind)), DEFECT)


def to_json(error: BaseException) -> dict[str, Any]:
    """`error` as the REST API spells errors: `{"error": {code, message, field?}}`, and what a refusal carries."""
    code = error.code if isinstance(error, SluicegateError) else _foreign_code(error)
    detail: dict[str, Any] = {"code": code, "message": _message(error)}
    field = getattr(error, "field", None) or _parameter_of(error)
    if field:
        detail["field"] = field
        if isinstance(error, InvalidInput):
            detail["message"] = error.message
    return {"error": detail, **_more(error)}


def _more(error: BaseException) -> dict[str, Any]:
    match error:
        case Refused():
            return error.details
        case InvalidSettings():
            return {"settings": [{"field": each.field, "message": each.message} for each in error.errors]}
        case AuditBroken():
            return {"position": error.position, "eventId": error.event_id}
        case _:
            return {}


def to_lines(error: BaseException) -> str:
    """`error` as one printable line; a line for each of several settings."""
    said = lines_of(error) if isinstance(error, InvalidSetting) else [_message(error)]
    return "\n".join(f"sluicegate: {printable(line)}" for line in said)


def _foreign_code(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return InvalidInput.code
    return Interrupted.code if isinstance(error, KeyboardInterrupt | click.Abort) else SluicegateError.code


def _parameter_of(error: BaseException) -> str | None:
    parameter = getattr(error, "param", None)
    return parameter.opts[0].lstrip("-") if isinstance(parameter, click.Parameter) else None


def _message(error: BaseException) -> str:
    match error:
        case SluicegateError():
            return str(error)
        case click.UsageError():
            where = f" (see `{error.ctx.command_path} --help`)" if error.ctx else ""
            return error.format_message().rstrip(".") + where
        case click.ClickException():
            return error.format_message()
        case KeyboardInterrupt() | click.Abort():
            return "interrupted"
        case _:
            return (
                f"unexpected {type(error).__name__}: {error} "
                "(a defect: `sluicegate --traceback VERB …` shows where, please report it)"
            )


@contextmanager
def reported(*, as_json: bool) -> Iterator[None]:
    """Turn whatever the block raises into a line (or JSON) on stderr and an exit code."""
    try:
        yield
    except (click.exceptions.Exit, SystemExit, GeneratorExit):
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        raise click.exceptions.Exit(Exit.USAGE) from None
    except BrokenPipeError:
        # `| head` has read enough: that is no failure, and the interpreter must not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(Exit.OK) from None
    except BaseException as error:
        code = exit_of(error)
        if code == DEFECT and _wants_traceback():
            traceback.print_exc()
        click.echo(printable_json(to_json(error)) if as_json else to_lines(error), err=True)
        raise click.exceptions.Exit(code) from None


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Turn the absence of a server's package into MissingExtra, which says what to install.

    What a package of others needs and does not find is told as it is: the extra is installed then, and not whole.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = error.name or str(error)
        if missing.partition(".")[0] == "sluicegate":
            raise
        wanted_by = _importer(error).partition(".")[0]
        if wanted_by == "sluicegate":
            raise MissingExtra(f"this needs the {name} extra: pip install 'sluicegate[{name}]'") from None
        raise MissingExtra(
            f"{wanted_by}, which the {name} extra brings, does not find the module {missing!r}: the installation "
            f"is not whole; pip install --force-reinstall 'sluicegate[{name}]'"
        ) from None


def _importer(error: ModuleNotFoundError) -> str:
    """The module that wanted the one that is missing: the last in the way that is not the import system itself."""
    names = [str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((name for name in reversed(names) if name.partition(".")[0] not in ("importlib", "")), "sluicegate")


def _wants_traceback() -> bool:
    context = click.get_current_context(silent=True)
    return bool(context and context.find_root().params.get("traceback"))


class _Exemplified:
    """What both kinds of command share: examples below the options of `--help`."""

    examples: Sequence[str]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, unwrapped, where there are any."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


class Verb(_Exemplified, click.Command):
    """A command that reports every failure by itself; `examples` are shown by `--help`."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a bad option or argument is one line and exit 2."""
        with reported(as_json="--json" in args):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; `--json` makes errors JSON too."""
        with reported(as_json=bool(ctx.params.get("as_json"))):
            return super().invoke(ctx)


class Noun(_Exemplified, click.Group):
    """A group of verbs, such as `db`, that reports every failure by itself too."""

    command_class = Verb

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = examples

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; a bad option is one line and exit 2."""
        # What a group itself reports (an unknown verb) is JSON where its verb was asked for JSON.
        ctx.meta[_JSON] = "--json" in args
        with reported(as_json="--json" in args):
            return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; an unknown verb is one line and exit 2."""
        with reported(as_json=ctx.meta[_JSON]):
            return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """As click does; a group that is a verb by itself (`workers`) reports like one."""
        with reported(as_json=ctx.meta[_JSON]):
            return super().invoke(ctx)
