"""What a verb shows: short lines, and tables that are rich on a terminal and aligned text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import click

from sluicegate.schemas.printable import printable, printable_json


class Progress(Protocol):
    """Where a wait shows how it stands."""

    def show(self, line: str, key: object) -> None:
        """Show `line`; a `key` equal to the last one says that only the clock has moved."""
        ...


def say(line: str) -> None:
    """One line for people, on stdout."""
    click.echo(printable(line))


def note(line: str) -> None:
    """One line for people beside output that a script may read, on stderr."""
    click.echo(printable(line), err=True)


def say_json(body: Any) -> None:
    """Prints one JSON value on stdout, indented for who reads it; nothing else goes there with `--json`."""
    click.echo(printable_json(body, indent=2))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """`rows` under `head`. Cells are text; nothing in them is markup."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(head, cells)
        return
    widths = [max(len(row[column]) for row in [list(head), *cells]) for column in range(len(head))]
    for row in [list(head), *cells]:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*head, box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(cell, overflow="fold") for cell in row))
    Console().print(drawn)


class _Silent:
    def show(self, line: str, key: object) -> None:
        """Nothing: stdout is for one JSON value."""


class _Lines:
    """A line per change, for logs and pipes."""

    def __init__(self) -> None:
        self._last: object = None

    def show(self, line: str, key: object) -> None:
        if key != self._last:
            self._last = key
            say(line)


class _Live:
    """One line that moves, for a terminal."""

    def __init__(self, status: Any) -> None:
        self._status = status

    def show(self, line: str, key: object) -> None:
        from rich.text import Text

        self._status.update(Text(printable(line)))


@contextmanager
def progress(*, silent: bool) -> Iterator[Progress]:
    """A live line on a terminal, a plain line per change elsewhere, nothing where `silent`."""
    if silent:
        yield _Silent()
    elif sys.stdout.isatty():
        from rich.console import Console

        with Console().status("waiting") as status:
            yield _Live(status)
    else:
        yield _Lines()
