"""What every pool does: nothing starts but through the gate, and what was let through is known until it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

from sluicegate.schemas.holds.hold import Hold, Then
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL
from tests.conformance.pools import RIGS, Request, Rig
from tests.unit.strategies import NOW

DRAIN = Hold(id=UUID(int=1), scope=GLOBAL, mode=Mode.DRAIN, reason="r", actor="a", created_at=NOW)


@pytest.fixture(params=RIGS, ids=lambda rig: rig.name)
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = request.param()
    yield made
    made.close()


def nothing(request: Request) -> None: ...


def test_it_is_named_as_celery_spells_it(rig: Rig) -> None:
    assert rig.side.name == rig.name


def test_what_comes_to_an_open_gate_runs(rig: Rig) -> None:
    rig.run("a", nothing)
    rig.run("b", nothing)
    assert (rig.ran, rig.held) == (["a", "b"], [])


def test_what_comes_to_a_closed_gate_is_held_and_does_not_run(rig: Rig) -> None:
    rig.order(DRAIN)
    rig.send("a")
    assert (rig.ran, rig.held) == ([], ["a"])
    assert rig.is_past_barrier()
    assert rig.taken() == []


def test_after_a_resume_what_comes_runs_again(rig: Rig) -> None:
    """A start that did not happen took no slot with it."""
    rig.order(DRAIN)
    rig.send("a")
    rig.order()
    rig.side.go_on()
    rig.run("b", nothing)
    assert rig.ran == ["b"]


def test_what_runs_goes_on_when_the_gate_closes_and_is_past_the_barrier(rig: Rig) -> None:
    def meanwhile(request: Request) -> None:
        rig.order(DRAIN)
        assert rig.taken() == []
        rig.comes_past_barrier()
        assert rig.side.is_busy()

    rig.run("a", meanwhile)
    assert (rig.ran, rig.held) == (["a"], [])
    assert rig.is_past_barrier()


ROOMY = pytest.mark.parametrize(
    "rig", [rig for rig in RIGS if rig.can_lie_there], ids=lambda rig: rig.name, indirect=True
)


@ROOMY
def test_the_barrier_waits_for_what_was_let_through_and_has_not_begun_and_for_nothing_that_is_not_asked_about(
    rig: Rig,
) -> None:
    def check() -> None:
        for _ in range(3):
            assert not rig.is_past_barrier()
        rig.comes_past_barrier(lambda request: request.id != "a")

    rig.while_one_lies_there("a", check)
    rig.comes_past_barrier()


@ROOMY
def test_what_lies_in_the_pool_when_the_gate_closes_never_runs_and_comes_out_once(rig: Rig) -> None:
    def meanwhile(request: Request) -> None:
        for task_id in ("b", "c"):
            rig.send(task_id)
        rig.order(DRAIN)
        out.extend(rig.taken())
        rig.comes_past_barrier()

    out: list[str] = []
    rig.run("a", meanwhile)
    rig.side.go_on()
    assert rig.ran == ["a"]
    assert sorted(out + rig.held) == ["b", "c"]
    assert rig.taken() == []


def test_what_waits_at_a_checkpoint_is_told_from_what_runs(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(request: Request) -> None:
        assert not rig.side.is_waiting(request)
        rig.note_waiting(request.id, True, monkeypatch)
        assert rig.side.is_waiting(request)
        rig.note_waiting(request.id, False, monkeypatch)
        assert not rig.side.is_waiting(request)
        rig.note_waiting(request.id, True, monkeypatch)

    rig.run("a", meanwhile)
    assert not rig.side.is_waiting(rig.requests["a"])


def test_a_pool_ends_a_running_task_or_says_that_it_cannot(rig: Rig) -> None:
    def meanwhile(request: Request) -> None:
        assert not rig.side.has_ended(request)
        assert rig.side.end(request, Then.TERMINATE, is_hard=False) is rig.can_end

    rig.run("a", meanwhile)
    assert rig.side.has_ended(rig.requests["a"]) is True or not rig.can_end


def test_it_has_forgotten_nothing_where_no_connection_was_lost(rig: Rig) -> None:
    def meanwhile(request: Request) -> None:
        assert rig.side.forgotten() == ()

    rig.run("a", meanwhile)
    rig.side.forget_looks()
    assert rig.side.forgotten() == ()
