"""The verb `governors`: what holds by itself, shown, changed from a file, overridden, and asked what it would do."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from sluicegate.control.cli import options
from sluicegate.control.cli.verb import Noun
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.holds.hold import check_reason
from sluicegate.schemas.spans import parse_span


@click.group(cls=Noun, short_help="Windows, budgets and capacity: what holds by itself.")
def governors() -> None:
    """Windows, budgets and capacity gates: the control plane places and releases their holds by itself."""


@governors.command(
    short_help="What governors say, and what they decided last.",
    examples=("sluicegate governors show", "sluicegate governors show budget/gpu --json"),
)
@click.argument("governor", required=False, metavar="[KIND/NAME]")
@options.connection
@options.json_output
def show(*, governor: str | None, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """List all governors, or tell one whole: what it says, why it holds or not, and until when."""
    from sluicegate.control.cli.render import governor_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if governor is not None:
            reply = client.governors.one(*_named(governor))
            if as_json:
                terminal.say_json(reply.raw)
                return
            for line in governor_lines.whole(reply.body):
                terminal.say(line)
            return
        listed = client.governors.all()
    if as_json:
        terminal.say_json(listed.raw)
    elif listed.body.governors:
        terminal.table(governor_lines.HEAD, governor_lines.rows(listed.body.governors))
    else:
        terminal.say("there are no governors")


@governors.command(
    short_help="Make the governors what a file says.",
    examples=(
        "sluicegate governors apply governors.toml --dry-run",
        'sluicegate governors apply governors.toml --reason "budget of December"',
    ),
)
@click.argument("file", type=click.Path(path_type=Path))
@options.reason
@options.option("--dry-run", "is_dry", is_flag=True, help="Have it judged, say what would change, and change nothing.")
@options.option("--prune", "prunes", is_flag=True, help="Take away those that the file does not name.")
@options.connection
@options.json_output
def apply(
    *,
    file: Path,
    reason: str | None,
    is_dry: bool,
    prunes: bool,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Make each governor that FILE names what it says there. All are judged before the first is changed."""
    why = "dry run" if is_dry and reason is None else check_reason(reason)
    wanted = _read(file)

    from sluicegate.control.cli.render import governor_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        there = {(one.kind, one.name): one for one in client.governors.all().body.governors}
        seen = {key: there[key].version if key in there else None for key in wanted}
        replies = {}
        for dry in (True,) if is_dry else (True, False):
            for key, spec in wanted.items():
                replies[key] = client.governors.put(*key, spec, reason=why, version=seen[key], is_dry=dry)
        surplus = [key for key, one in there.items() if prunes and key not in wanted and one.managed_by is None]
        for key in surplus if not is_dry else ():
            client.governors.delete(*key, reason=why, version=there[key].version)
    done = [(key, reply.body, there.get(key)) for key, reply in replies.items()]
    if as_json:
        told, gone = [reply.raw for reply in replies.values()], [f"{kind}/{name}" for kind, name in surplus]
        terminal.say_json({"governors": told, "deleted": gone, "dryRun": is_dry})
        return
    for line in governor_lines.applied(done, surplus, is_dry=is_dry):
        terminal.say(line)


@governors.command(
    short_help="Take a governor away.", examples=('sluicegate governors delete window/nightly --reason "moved"',)
)
@click.argument("governor", metavar="KIND/NAME")
@options.reason
@options.connection
@options.json_output
def delete(*, governor: str, reason: str | None, url: str | None, token_file: Path | None, as_json: bool) -> None:
    """Take a governor away. The hold that it has placed goes with it."""
    kind, name = _named(governor)
    why = check_reason(reason)

    from sluicegate.control.cli.render import terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        version = client.governors.one(kind, name).body.version
        reply = client.governors.delete(kind, name, reason=why, version=version)
    if as_json:
        terminal.say_json(reply.raw)
    else:
        terminal.say(f"deleted: {governor}")


@governors.command(
    short_help="Go on past a governor that holds.",
    examples=(
        'sluicegate governors override budget/gpu --for 2h --reason "the report must go out"',
        'sluicegate governors override budget/gpu --end --reason "it is out"',
    ),
)
@click.argument("governor", metavar="KIND/NAME")
@options.reason
@options.option("--for", "span", metavar="SPAN", help="How long at most, such as 2h; a budget's ends with its day.")
@options.option("--end", "is_end", is_flag=True, help="End it before its time.")
@options.connection
@options.json_output
def override(
    *,
    governor: str,
    reason: str | None,
    span: str | None,
    is_end: bool,
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Go on past a governor that holds, until its condition turns false or the time is over. On record."""
    kind, name = _named(governor)
    why = check_reason(reason)
    if is_end == (span is not None):
        raise InvalidInput("--for", "say how long, or --end")

    from sluicegate.control.cli.render import governor_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if span is None:
            reply = client.governors.end_override(kind, name, reason=why)
        else:
            for_s = parse_span(span, "--for").total_seconds()
            reply = client.governors.override(kind, name, reason=why, for_s=for_s)
    if as_json:
        terminal.say_json(reply.raw)
        return
    for line in governor_lines.overridden(reply.body):
        terminal.say(line)


@governors.command(
    short_help="Correct what a budget's day has cost.",
    examples=('sluicegate governors adjust gpu -- -4.20 --reason "refunded"',),
    context_settings={"ignore_unknown_options": True},
)
@click.argument("budget", metavar="NAME")
@click.argument("amount")
@options.reason
@options.connection
@options.json_output
def adjust(
    *, budget: str, amount: str, reason: str | None, url: str | None, token_file: Path | None, as_json: bool
) -> None:
    """Add AMOUNT to what the day of the budget NAME has cost; one below zero is taken off. On record."""
    why = check_reason(reason)

    from sluicegate.control.cli.render import terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        reply = client.governors.adjust(budget, amount=amount, reason=why, key=str(uuid4()))
    if as_json:
        terminal.say_json(reply.raw)
    else:
        terminal.say(f"adjusted: {budget} by {reply.body.amount}")


@governors.command(
    short_help="What a governor would decide.",
    examples=(
        "sluicegate governors test budget/gpu --at 2026-03-02T18:00:00+01:00 --reading spent=92",
        "sluicegate governors test window/nightly --file governors.toml --at 2026-03-29T02:30:00+02:00",
        "sluicegate governors test capacity/fleet --reading 'workers=[{\"gpu_memory\": [0.1, 0.4]}]'",
    ),
)
@click.argument("governor", metavar="KIND/NAME")
@options.option("--file", "file", type=click.Path(path_type=Path), metavar="FILE", help="As FILE says, not as stored.")
@options.option("--at", metavar="TIME", help="ISO-8601 with a zone; otherwise now.")
@options.option("--reading", "readings", multiple=True, metavar="NAME=VALUE", help="spent, or workers as JSON.")
@options.connection
@options.json_output
def test(
    *,
    governor: str,
    file: Path | None,
    at: str | None,
    readings: tuple[str, ...],
    url: str | None,
    token_file: Path | None,
    as_json: bool,
) -> None:
    """Print what a governor would decide at a time, for a reading. Changes nothing."""
    kind, name = _named(governor)
    reading = dict(map(_reading, readings))
    wanted = None if file is None else _read(file)

    from sluicegate.control.cli.render import governor_lines, terminal
    from sluicegate.control.cli.session import connect

    with connect(url, token_file) as client:
        if wanted is None:
            spec: Any = client.governors.one(kind, name).body.spec
        elif (kind, name) in wanted:
            spec = wanted[kind, name]
        else:
            raise InvalidInput("FILE", f"{file} does not name {governor}")
        reply = client.governors.rehearse(kind, spec=spec, at=at, reading=reading)
    if as_json:
        terminal.say_json(reply.raw)
        return
    for line in governor_lines.rehearsed(reply.body):
        terminal.say(line)


def _named(governor: str) -> tuple[str, str]:
    """KIND/NAME; raises InvalidInput."""
    from sluicegate.schemas.governors.specs import check_kind, check_name

    kind, slash, name = governor.partition("/")
    if not slash:
        raise InvalidInput("KIND/NAME", f"{governor!r} is no governor such as budget/gpu")
    return str(check_kind(kind)), check_name(name)


def _read(file: Path) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What the file names; raises InvalidInput."""
    from sluicegate.schemas.governors.tables import named

    try:
        said = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInput("FILE", f"{file}: {' '.join(str(error).split())}") from None
    return {(str(kind), name): spec for (kind, name), spec in named(said).items()}


def _reading(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise InvalidInput("--reading", f"{text!r} is not NAME=VALUE")
    if name != "workers":
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        raise InvalidInput("--reading", f"{value!r:.60} is not JSON") from None
