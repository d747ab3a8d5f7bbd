"""Waiting for a condition with a deadline: the only way in which anything here waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

LOOK_EVERY_S = 0.01
WITHIN_S = 40.0
"""Long enough for a busy machine: a condition that comes true costs none of it."""


class NotInTime(AssertionError):
    """A condition did not come true before its deadline."""


def until(what: str, look: Callable[[], T], *, within_s: float = WITHIN_S, every_s: float = LOOK_EVERY_S) -> T:
    """The first true value of `look`; raises NotInTime, which names `what` and what `look` said last."""
    give_up = time.monotonic() + within_s
    while not (answer := look()):
        if time.monotonic() > give_up:
            raise NotInTime(f"not within {within_s:g} s: {what} (last seen: {answer!r})")
        time.sleep(every_s)
    return answer


def stays(what: str, look: Callable[[], object], *, for_s: float, every_s: float = LOOK_EVERY_S) -> None:
    """Return once `look` has been true at every look for `for_s` seconds; raises NotInTime otherwise."""
    end = time.monotonic() + for_s
    while time.monotonic() < end:
        if not (answer := look()):
            raise NotInTime(f"did not stay so for {for_s:g} s: {what} (last seen: {answer!r})")
        time.sleep(every_s)
