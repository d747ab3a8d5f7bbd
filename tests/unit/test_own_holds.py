"""A worker's own holds: in force at once, released by their own rule, taken over from an earlier life, cleared once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from sluicegate.schemas.health.local_holds import LocalHold, actor_of, is_own
from sluicegate.schemas.holds.hold import Cause, Hold, Holds
from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope, ScopeKind, Subject
from sluicegate.schemas.snapshots import Snapshot
from sluicegate.workers.cell import Cell
from sluicegate.workers.gate import Gate
from sluicegate.workers.own_holds import OwnHolds
from sluicegate.workers.own_holds_file import OwnHoldsFile

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ME, HERE = Scope(ScopeKind.WORKER, "w1@h"), Scope(ScopeKind.HOST, "h")


class Life:
    """One life of a worker: a gate, and the own holds at it, with the file that every life of it has."""

    def __init__(self, directory: Path, *, judges: bool = True) -> None:
        self.now = NOW
        self.said = 0
        self.gate: Gate[str] = Gate(
            Cell(),
            Subject(host="h", worker="w1@h"),
            wake=lambda: None,
            on_applied=lambda: None,
            is_own=lambda hold: is_own(hold, Subject(host="h", worker="w1@h")),
        )
        self.own = OwnHolds(
            self.gate,
            OwnHoldsFile(directory, "default", "w1@h"),
            on_change=self.say,
            now=lambda: self.now,
        )
        if judges:
            self.own.inherit()

    def say(self) -> None:
        self.said += 1

    def starts(self) -> bool:
        return self.gate.pass_through(lambda _: None, "a task")

    def rules(self) -> list[str]:
        return [hold.rule for hold in self.own.held()]


def local(rule: str = "gpu.lost", **changed) -> LocalHold:
    told: dict[str, Any] = {
        "cause": Cause.HEALTH,
        "scope": ME,
        "reason": "GPU 0 fell off the bus",
        "since": NOW,
    } | changed
    return LocalHold(rule=rule, **told)


def record(hold: LocalHold, number: int = 1, **changed) -> Hold:
    told: dict[str, Any] = {
        "id": UUID(int=number),
        "scope": hold.scope,
        "mode": hold.mode,
        "reason": hold.reason,
        "actor": actor_of("w1@h"),
        "created_at": NOW,
        "cause": str(hold.cause),
        "source": hold.rule,
    } | changed
    return Hold(**told)


def state(version: int, *holds: Hold) -> Snapshot:
    return Snapshot(
        namespace="default",
        epoch=1,
        holds=Holds(version=version, active=frozenset(holds)),
        publication=version,
        issued_at=NOW,
    )


@pytest.fixture
def life(tmp_path: Path) -> Life:
    one = Life(tmp_path)
    one.own.see(state(1))
    return one


def test_it_is_in_force_when_take_returns_and_over_when_the_rule_says_so(life: Life):
    assert life.starts()
    life.own.take((local(),))
    assert not life.starts()
    assert life.gate.standing.local_reason == "GPU 0 fell off the bus"
    life.own.take(())
    assert life.starts()
    assert life.said == 2, "each edge is told at once"


def test_other_words_for_the_same_hold_do_not_wake_the_worker_and_are_told(life: Life):
    life.own.take((local(reason="1.9 of 24 GiB free"),))
    standing = life.gate.standing
    life.own.take((local(reason="1.8 of 24 GiB free"),))
    assert life.gate.standing is standing
    assert [hold.reason for hold in life.own.told()] == ["1.8 of 24 GiB free"]
    assert life.said == 1


def test_a_quiesce_asks_what_runs_to_stop_and_a_drain_does_not(life: Life):
    life.own.take((local(),))
    seen = [life.gate.cell.mode]
    life.own.take((local(mode=Mode.QUIESCE),))
    seen.append(life.gate.cell.mode)
    life.own.take((local(),))
    assert [*seen, life.gate.cell.mode] == [Mode.RUN, Mode.QUIESCE, Mode.RUN]
    assert not life.starts()


def test_the_gate_does_not_open_while_one_rule_hands_over_to_another(life: Life):
    life.own.take((local("gpu.lost"),))
    opened: list[bool] = []
    life.gate._wake = lambda: opened.append(life.gate.standing.is_open)
    life.own.take((local("gpu.missing"),))
    assert opened
    assert not any(opened)


@pytest.mark.parametrize(
    "hold",
    [
        local(scope=Scope(ScopeKind.WORKER, "w2@h")),
        local(scope=Scope(ScopeKind.HOST, "elsewhere")),
        local(scope=GLOBAL),
        local(scope=Scope(ScopeKind.LABEL, "gpu=a100")),
        local(cause=Cause.MANUAL),
    ],
)
def test_a_worker_holds_nobody_but_itself_and_its_host(life: Life, hold: LocalHold):
    with pytest.raises(ValueError, match="itself"):
        life.own.take((hold,))
    assert life.starts()


def test_a_rule_that_only_warns_holds_nothing_and_is_told(life: Life):
    life.own.take((local(is_shadow=True),))
    assert life.starts()
    assert [hold.is_shadow for hold in life.own.told()] == [True]
    assert life.own.held() == ()
    assert life.said == 1


def test_the_next_life_holds_before_it_has_judged_anything(life: Life, tmp_path: Path):
    life.own.take((local(), local("capacity.memory", cause=Cause.CAPACITY, scope=HERE)))
    after = Life(tmp_path)
    after.own.see(state(1))
    assert not after.starts()
    after.own.take(())
    assert not after.starts(), "the judge was not told of it yet"
    assert [hold.rule for hold in after.own.inherited()] == ["gpu.lost", "capacity.memory"]
    assert after.own.inherited() == ()
    after.own.take(())
    assert after.starts()
    assert Life(tmp_path).own.held() == ()


def test_with_the_file_lost_it_is_taken_over_from_the_record(tmp_path: Path):
    life = Life(tmp_path)
    life.own.see(state(2, record(local())))
    assert not life.starts()
    assert life.rules() == ["gpu.lost"]
    (inherited,) = life.own.inherited()
    life.own.take((inherited,))
    assert not life.starts()
    life.own.take(())
    assert life.starts(), "the record alone holds nobody: the control plane may be away"
    life.own.see(state(3, record(local(), 2), record(local("gpu.ecc"), 3)))
    assert life.rules() == ["gpu.ecc"], "a record that comes late is not an earlier life's"


def test_without_a_judge_neither_file_nor_record_holds(life: Life, tmp_path: Path):
    """The probe's kill switch."""
    life.own.take((local(),))
    after = Life(tmp_path, judges=False)
    after.own.see(state(2, record(local())))
    assert after.starts()
    assert after.own.told() == ()


def test_what_another_worker_of_the_host_placed_on_it_is_obeyed_as_any_hold(life: Life):
    of_another = record(local("capacity.memory", scope=HERE), actor=actor_of("w2@h"))
    life.own.see(state(2, of_another))
    assert not life.starts()
    assert life.own.held() == ()
    life.own.take(())
    assert not life.starts()
    life.own.see(state(3))
    assert life.starts()


@pytest.mark.parametrize("cause", ["manual", "budget", "window", "of a later version"])
def test_a_hold_of_another_cause_on_this_worker_is_no_own_one(life: Life, cause: str):
    life.own.see(state(2, record(local(), cause=cause)))
    life.own.take(())
    assert not life.starts()


def test_what_an_operator_clears_is_let_go_once_and_the_judge_is_told(life: Life, tmp_path: Path):
    life.own.take((local(),))
    life.own.see(state(2, record(local())))
    assert life.own.cleared == {}
    life.now += timedelta(minutes=1)
    cleared = record(local(), expires_at=NOW + timedelta(days=1))
    life.own.see(state(3, cleared))
    assert life.starts()
    assert life.own.cleared == {"gpu.lost": NOW + timedelta(minutes=1)}
    life.own.take((local(),))
    assert life.starts(), "a wish from before it was cleared"
    # The rule begins anew, and finds the same: the mark that still stands there is not taken for another one.
    again = local(since=NOW + timedelta(minutes=2))
    life.own.take((again,))
    assert not life.starts()
    life.own.see(state(4, cleared, record(local(), 2, cause="manual", scope=GLOBAL)))
    assert life.rules() == ["gpu.lost"]
    after = Life(tmp_path)
    after.own.see(state(4, cleared))
    assert after.rules() == ["gpu.lost"], "nor by the next life"
    assert after.own.cleared == {"gpu.lost": NOW + timedelta(minutes=1)}


def test_what_is_cleared_while_the_worker_is_away_is_let_go_when_it_comes(life: Life, tmp_path: Path):
    life.own.take((local(),))
    after = Life(tmp_path)
    after.own.see(state(3, record(local(), expires_at=NOW + timedelta(days=1))))
    assert after.starts()
    assert after.own.inherited() == ()
    assert list(after.own.cleared) == ["gpu.lost"]


def test_a_worker_that_holds_itself_acknowledges_central_editions(life: Life):
    life.own.take((local(),))
    life.own.see(state(7, record(local())))
    standing, _ = life.gate.take_duty()
    assert life.gate.acknowledge(standing)
    assert life.gate.applied.edition.version == 7
    assert life.gate.applied.standing is not None
    assert life.gate.applied.standing.fingerprint == state(7, record(local())).holds.fingerprint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"holds": 3, "cleared": []}', '{"holds": [{}], "cleared": []}'])
def test_a_file_that_is_none_of_ours_costs_nothing_but_the_memory(tmp_path: Path, text: str, caplog):
    file = OwnHoldsFile(tmp_path, "default", "w1@h")
    file.path.parent.mkdir(parents=True)
    file.path.write_text(text)
    life = Life(tmp_path)
    life.own.see(state(1))
    assert life.starts()
    assert "judged anew" in caplog.text


def test_a_file_that_cannot_be_written_does_not_keep_it_from_holding(tmp_path: Path, caplog):
    (tmp_path / "workers").write_text("in the way")
    life = Life(tmp_path)
    life.own.see(state(1))
    life.own.take((local(),))
    life.own.take(())
    life.own.take((local(),))
    assert not life.starts()
    assert caplog.text.count("cannot be written") == 1


CAUSES = ("manual", "capacity", "budget", "window", "health")


@pytest.mark.parametrize("order", list(permutations(CAUSES)), ids="-".join)
def test_work_starts_after_the_last_of_five_causes_in_whatever_order_they_are_released(tmp_path: Path, order):
    """R-G1. Health and capacity are the worker's own, and on record; the record goes later than the hold."""
    life = Life(tmp_path)
    own = {
        "health": local("gpu.lost"),
        "capacity": local("capacity.memory", cause=Cause.CAPACITY, scope=HERE),
    }
    holds = {cause: record(own[cause], number) for number, cause in enumerate(own)} | {
        "manual": record(local(), 11, cause="manual", source="", scope=GLOBAL, actor="alice"),
        "budget": record(local(), 12, cause="budget", source="gpu-hours", scope=GLOBAL, actor="sluicegate"),
        "window": record(local(), 13, cause="window", source="nightly", scope=HERE, actor="sluicegate"),
    }
    life.own.take(own.values())
    version = 2
    life.own.see(state(version, *holds.values()))
    for cause in order:
        assert not life.starts(), f"{cause} and perhaps others hold"
        if cause in own:
            del own[cause]
            life.own.take(own.values())
            assert life.starts() == (cause == order[-1])
        del holds[cause]
        version += 1
        life.own.see(state(version, *holds.values()))
    assert life.starts()
