"""Governors in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from sluicegate.schemas.api.governors import GovernorAnswer, GovernorBody, RehearseAnswer
from sluicegate.schemas.times import to_wire

HEAD = ("GOVERNOR", "SCOPE", "NOW", "WHY", "NEXT")


def rows(governors: Iterable[GovernorBody]) -> list[Sequence[object]]:
    """A row for each."""
    return [
        (
            f"{one.kind}/{one.name}",
            one.spec.get("scope", "global"),
            _word(one),
            (one.decision or {}).get("reason") or "not judged yet",
            _short((one.decision or {}).get("nextAt")),
        )
        for one in governors
    ]


def whole(one: GovernorBody) -> Iterator[str]:
    """All of one."""
    yield f"{one.kind}/{one.name}: {_word(one)} — version {one.version}, by {one.updated_by}"
    if one.managed_by is not None:
        yield f"managed by a {one.managed_by} of the control plane's"
    yield from (f"  {field} = {value}" for field, value in one.spec.items())
    decision = one.decision or {}
    if decision:
        yield f"why: {decision.get('reason')}"
        yield f"next change by time alone: {_short(decision.get('nextAt'))}"
    if decision.get("alarm"):
        yield f"ALARM: {decision['alarm']}"
    yield from overridden(one) if one.override is not None else ()


def overridden(one: GovernorBody) -> Iterator[str]:
    """Who goes past it, or that nobody does any more."""
    if one.override is None:
        yield f"{one.kind}/{one.name}: nobody goes past it any more"
    else:
        until = to_wire(one.override.until)
        yield f"{one.kind}/{one.name}: overridden by {one.override.by} until {until} at most: {one.override.reason}"


def applied(
    done: Iterable[tuple[tuple[str, str], GovernorAnswer, GovernorBody | None]],
    deleted: Iterable[tuple[str, str]],
    *,
    is_dry: bool,
) -> Iterator[str]:
    """What a file has changed, or would: each governor, and the fields that are different."""
    for (kind, name), answer, before in done:
        after = answer.governor.spec
        if answer.outcome == "noop":
            yield f"unchanged: {kind}/{name}"
            continue
        if before is None:
            yield f"{'would create' if is_dry else 'created'}: {kind}/{name}"
            continue
        yield f"{'would change' if is_dry else 'changed'}: {kind}/{name}"
        for field in after:
            if before.spec.get(field) != after[field]:
                yield f"  {field}: {before.spec.get(field)} -> {after[field]}"
    for kind, name in deleted:
        yield f"{'would delete' if is_dry else 'deleted'}: {kind}/{name}"


def rehearsed(answer: RehearseAnswer) -> Iterator[str]:
    """What would be decided."""
    word = {True: f"HOLDS ({answer.mode})", False: "RUNS", None: "LEFT AS IT IS"}[answer.should_pause]
    yield f"{word}: {answer.reason}"
    if answer.alarm is not None:
        yield f"ALARM: {answer.alarm}"
    if answer.next_at is not None:
        yield f"next change by time alone: {to_wire(answer.next_at)}"


def _word(one: GovernorBody) -> str:
    if one.override is not None:
        return "overridden"
    if not one.spec.get("enabled", True):
        return "off"
    return "holds" if one.is_holding else "runs"


def _short(said: object) -> str:
    """To the second."""
    if isinstance(said, datetime):
        return to_wire(said)
    return "-" if said is None else str(said).partition(".")[0] + "Z"
