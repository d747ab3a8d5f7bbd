"""What the use cases return, as the bodies of `schemas.api`: every face that answers in JSON spells by these. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sluicegate.control.audit.events import Latest, Query, Recorded
from sluicegate.control.audit.feed import Page
from sluicegate.control.holds.drain_rows import Told
from sluicegate.control.holds.namespaces import Truth
from sluicegate.control.pausing.change import Done
from sluicegate.control.pausing.own_records import ClearedHolds
from sluicegate.control.pausing.read import HoldStory, Previewed, State
from sluicegate.control.pausing.recovery import Raised
from sluicegate.schemas.api.audit import AuditAnswer, AuditQuery, AuditTail, EventBody, LatestEvent
from sluicegate.schemas.api.epoch import EpochAnswer
from sluicegate.schemas.api.holds import AtPauseBody, DrainBody, FollowedBody, HoldAnswer, HoldBody, ReceiptBody
from sluicegate.schemas.api.own_holds import ClearAnswer
from sluicegate.schemas.api.pausing import ChangeAnswer, MetricsBody, PauseAnswer, PreviewAnswer, SystemBody
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.times import from_wire_or_none


def system_of(truth: Truth) -> SystemBody:
    """The `system` block: what is ordered."""
    return SystemBody.of(truth.holds, epoch=truth.epoch, updated_at=truth.updated_at)


def state_of(state: State) -> PauseAnswer:
    """A state with its metrics and its newest events."""
    return PauseAnswer(
        system=system_of(state.progress.truth),
        metrics=MetricsBody.of(state.progress.metrics),
        audit=_tail_of(state.latest),
    )


def change_of(done: Done) -> ChangeAnswer:
    """What an order did, and the state after it."""
    effect = done.effect
    return ChangeAnswer.model_validate(
        {
            "outcome": effect.outcome,
            "system": system_of(effect.after),
            "metrics": MetricsBody.of(done.metrics),
            "audit": _tail_of(effect.latest),
            "published": done.published,
            "remaining": list(effect.remaining),
            "warnings": list(done.warnings),
        }
    )


def epoch_of(raised: Raised) -> EpochAnswer:
    """The epoch that was raised, and what is ordered in it."""
    return EpochAnswer.model_validate(
        {
            "outcome": raised.outcome,
            "above": str(raised.above),
            "published": raised.published,
            "system": system_of(raised.truth),
        }
    )


def cleared_of(done: ClearedHolds) -> ClearAnswer:
    """What a worker is told to let go of."""
    held = [HoldBody.of(hold) for hold in done.holds]
    return ClearAnswer(nodename=done.worker, cleared=held, published=done.published)


def preview_of(seen: Previewed) -> PreviewAnswer:
    """What a hold would touch."""
    return PreviewAnswer.of(seen.preview, held_by=seen.held_by, warnings=seen.warnings)


def hold_of(told: HoldStory) -> HoldAnswer:
    """One hold and its story."""
    story = told.story
    return HoldAnswer(
        hold=HoldBody.of(told.hold),
        at_pause=None if story.at_pause is None else AtPauseBody.of(story.at_pause),
        tasks=[FollowedBody.of_followed(one) for one in story.tasks],
        drains=[_drain_of(drain) for drain in story.drains],
    )


def page_of(page: Page) -> AuditAnswer:
    """A page of the audit."""
    return AuditAnswer(
        events=[_event_of(one) for one in page.events],
        total=page.total,
        limit=page.query.limit,
        offset=page.query.offset,
    )


def query_of(asked: AuditQuery) -> Query:
    """What is asked of the audit; raises InvalidInput naming the filter that is wrong."""
    words = {name: getattr(asked, name) for name in ("actor", "action", "cause", "scope", "worker")}
    for name, value in words.items():
        if value is not None and not (value and value.isprintable()):
            raise InvalidInput(name, f"{value!r} is not something that events have")
    return Query(
        since=from_wire_or_none(asked.since, "since"),
        until=from_wire_or_none(asked.until, "until"),
        limit=asked.limit,
        offset=asked.offset,
        **words,
    )


def _tail_of(latest: Iterable[Latest]) -> AuditTail:
    return AuditTail(
        latest=[
            LatestEvent(
                id=one.id,
                action=one.action,
                mode=one.mode,
                reason=one.reason,
                actor_user_id=one.actor,
                created_at=one.at,
            )
            for one in latest
        ]
    )


def _event_of(one: Recorded) -> EventBody:
    event = one.event
    return EventBody(
        id=one.id,
        action=event.action,
        outcome=event.outcome,
        epoch=event.edition.epoch,
        version=event.version,
        scope=event.scope,
        cause=event.cause,
        source=event.source,
        mode=event.mode,
        reason=event.reason,
        actor=event.actor,
        hold_id=None if event.hold_id is None else str(event.hold_id),
        details=dict(event.details),
        created_at=event.at,
    )


def _drain_of(drain: Told) -> DrainBody:
    return DrainBody(
        version=drain.version,
        begun_at=drain.begun_at,
        ended_at=drain.ended_at,
        ending=drain.ending,
        receipt=None if drain.receipt is None else ReceiptBody.of(drain.receipt),
    )
