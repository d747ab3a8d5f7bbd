"""Text from outside, made fit to be seen: the one place for logs, terminals and JSON.

A reason, a task's id, a server's error are written by others. A newline in one would forge a line of a log, an ESC or
a C1 code would steer a terminal, and a bidi override would turn a line around. Both halves show such text through
here alone: as lines (`printable`), as JSON (`printable_json`), and in logs (`PrintableLogger`, `PrintableFormatter`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any


def printable(text: str) -> str:
    r"""`text` on one line: what is no printable character of Unicode (or the plain space) as `\n`, `\x1b`, `\u202e`.

    That takes C0, DEL, C1, every other line's end, all format characters (bidi overrides among them), halves of
    surrogate pairs, and spaces that are not the plain one.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_json(value: Any, *, indent: int | None = None) -> str:
    r"""`value` as JSON whose texts have only printable characters; the others stand as `\uXXXX`.

    It means the same to whoever reads JSON. The only other characters are the newlines of `indent`.
    """
    spelled = json.dumps(value, indent=indent, ensure_ascii=False)
    if spelled.isprintable():
        return spelled
    # Outside of its strings JSON has nothing but ASCII; and within them, no newline as such.
    return "".join(c if c.isprintable() or c == "\n" else _in_json(c) for c in spelled)


class PrintableLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that makes what it is given printable: the template, and each argument by itself."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """As `logging` has it. The template stays one, so that whoever groups lines by it still can."""
        # This frame is none of logging's own: without it, every line would be said to come from here.
        kwargs["stacklevel"] = kwargs.get("stacklevel", 1) + 1
        super().log(level, printable(str(msg)), *map(_argument, args), **kwargs)


def printable_logger(name: str) -> PrintableLogger:
    """The logger of that name."""
    return PrintableLogger(logging.getLogger(name))


class PrintableFormatter(logging.Formatter):
    """For a process whose log is ours alone: whoever logs there, a record is one line, and a traceback is indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(f"  | {printable(line)}" for line in super().formatException(ei).splitlines())


def _in_json(char: str) -> str:
    # What json itself leaves as it is where it keeps to ASCII: DEL.
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else json.dumps(char)[1:-1]


def _argument(value: object) -> object:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, Mapping):
        return {key: _argument(each) for key, each in value.items()}
    return printable(str(value))
