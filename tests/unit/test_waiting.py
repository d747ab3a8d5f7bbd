"""`--wait` as a pure function: what successive answers mean."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sluicegate.control.client.waiting import SILENCE_S, Look, Outcome, Verdict, Watch, judge
from sluicegate.schemas.api.pausing import MetricsBody
from sluicegate.schemas.api.workers import WorkerBody
from sluicegate.schemas.snapshots import Edition
from tests.unit import answers

TARGET = Edition(1, 7)
BUSY: dict[str, Any] = {"running": 1, "isDrained": False}


def look(at_s: float, *workers: dict[str, Any], version: int = 7, paused: bool = True, **metrics: Any) -> Look:
    return Look(
        at_s=at_s,
        edition=Edition(1, version),
        is_paused=paused,
        metrics=MetricsBody.model_validate(answers.state(**metrics)["metrics"]),
        workers=[WorkerBody.model_validate(worker) for worker in workers],
    )


@dataclass
class Wait:
    """A wait in the making: each look is judged after the ones before it."""

    watch: Watch = field(default_factory=lambda: Watch(target=TARGET, timeout_s=60.0))

    def sees(self, seen: Look) -> Verdict:
        self.watch, verdict = judge(self.watch, seen)
        return verdict


def test_drained_is_what_the_metrics_say_at_the_ordered_version() -> None:
    assert Wait().sees(look(1, answers.worker())).outcome is Outcome.DRAINED


def test_an_answer_older_than_the_order_says_nothing_about_it() -> None:
    """A replica that lags would otherwise report the calm before the pause."""
    wait = Wait()
    assert wait.sees(look(1, version=6)).outcome is Outcome.WAITING
    assert wait.sees(look(1, version=6, paused=False)).outcome is Outcome.WAITING


def test_a_newer_version_that_still_holds_counts_and_one_that_does_not_is_lifted() -> None:
    assert Wait().sees(look(1, answers.worker(), version=9)).outcome is Outcome.DRAINED
    assert Wait().sees(look(1, version=9, paused=False)).outcome is Outcome.LIFTED


def test_a_drain_is_not_quiesced_before_its_deadline_made_it_a_quiesce() -> None:
    """A task may wait at a checkpoint for another hold's sake."""
    wait = Wait(Watch(target=TARGET, timeout_s=60.0, is_quiesce=True))
    stopped = look(1, answers.worker(), running=1, isDrained=False, waiting=1, isQuiesced=True)
    assert wait.sees(replace(stopped, is_quiesce=False)).outcome is Outcome.WAITING
    assert wait.sees(stopped).outcome is Outcome.QUIESCED


def test_metrics_that_cannot_be_had_are_never_drained() -> None:
    seen = look(1, queued=None, isDrained=False, metricsSource="unavailable")
    assert Wait().sees(seen).outcome is Outcome.WAITING


def test_the_timeout_ends_it_and_names_who_holds_it_up() -> None:
    late = answers.worker("w2@host", state="pausing", appliedVersion=6)
    busy = answers.worker(running=[answers.task(started_at="2026-01-31T09:29:50.000000Z")])
    wait = Wait()
    assert wait.sees(look(59, late, busy, **BUSY)).outcome is Outcome.WAITING
    verdict = wait.sees(look(60, late, busy, **BUSY))
    assert verdict.outcome is Outcome.TIMED_OUT
    assert [worker.nodename for worker in verdict.unacknowledged] == ["w2@host"]
    assert [(task.nodename, task.name, task.for_s) for task in verdict.unfinished] == [("w1@host", "tasks.work", 10.0)]


def test_drained_at_the_last_moment_is_drained() -> None:
    assert Wait().sees(look(60, answers.worker())).outcome is Outcome.DRAINED


def test_a_worker_silent_with_work_on_it_is_lost_after_a_while() -> None:
    silent = answers.worker(state="unknown", running=[answers.task()])
    wait = Wait()
    assert wait.sees(look(1, silent, **BUSY)).outcome is Outcome.WAITING
    verdict = wait.sees(look(1 + SILENCE_S, silent, **BUSY))
    assert verdict.outcome is Outcome.LOST
    assert [(loss.nodename, loss.how) for loss in verdict.losses] == [("w1@host", "fell silent")]


def test_one_that_speaks_again_was_not_lost() -> None:
    silent = answers.worker(state="unknown", running=[answers.task()])
    wait = Wait()
    wait.sees(look(1, silent, **BUSY))
    wait.sees(look(2, answers.worker(running=[answers.task()]), **BUSY))
    assert wait.sees(look(2 + SILENCE_S, silent, **BUSY)).outcome is Outcome.WAITING


def test_while_the_control_plane_hears_nobody_no_worker_is_silent() -> None:
    """Redis is away: every lease runs out at once, and says nothing about the workers."""
    silent = answers.worker(state="unknown", running=[answers.task()])
    deaf: dict[str, Any] = {"queued": None, "running": 1, "isDrained": False, "metricsSource": "unavailable"}
    wait = Wait()
    for second in range(30):
        assert wait.sees(look(second, silent, **deaf)).outcome is Outcome.WAITING


def test_one_silent_without_work_holds_up_but_is_not_lost() -> None:
    silent = answers.worker(state="unknown")
    wait = Wait()
    wait.sees(look(1, silent, isDrained=False))
    verdict = wait.sees(look(30, silent, isDrained=False))
    assert verdict.outcome is Outcome.WAITING
    assert [worker.nodename for worker in verdict.unacknowledged] == ["w1@host"]


def test_a_timeout_with_a_silent_worker_is_a_loss() -> None:
    silent = answers.worker(state="unknown", running=[answers.task()])
    assert Wait().sees(look(60, silent, **BUSY)).outcome is Outcome.LOST


def test_a_new_incarnation_does_not_bring_back_what_its_predecessor_had_in_hand() -> None:
    """The control plane calls this drained: nothing runs. The tasks that ran are lost all the same."""
    wait = Wait()
    wait.sees(look(1, answers.worker(running=[answers.task()]), **BUSY))
    verdict = wait.sees(look(2, answers.worker(incarnation="2")))
    assert verdict.outcome is Outcome.LOST
    assert verdict.losses[0].how == "was replaced by a new incarnation"
    assert [task.id for task in verdict.losses[0].tasks] == ["t1"]


def test_a_restart_after_the_work_was_done_is_no_loss() -> None:
    wait = Wait()
    wait.sees(look(1, answers.worker(running=[answers.task()]), **BUSY))
    wait.sees(look(2, answers.worker(state="gone"), isDrained=False))
    assert wait.sees(look(3, answers.worker(incarnation="2"))).outcome is Outcome.DRAINED


def test_a_goodbye_with_work_in_hand_is_a_loss() -> None:
    """A cold shutdown: it left in order, its tasks did not end."""
    verdict = Wait().sees(look(1, answers.worker(state="gone", running=[answers.task()])))
    assert verdict.outcome is Outcome.LOST


def test_one_that_left_in_order_holds_nothing_up() -> None:
    verdict = Wait().sees(look(1, answers.worker(state="gone", appliedVersion=3)))
    assert verdict.outcome is Outcome.DRAINED
    assert not verdict.unacknowledged


def test_without_evidence_there_is_no_estimate() -> None:
    assert Wait().sees(look(1, answers.worker(running=[answers.task()]), **BUSY)).eta_s is None


@pytest.mark.parametrize(("started", "eta_s"), [("09:29:54", 14.0), ("09:29:30", None)])
def test_the_estimate_is_what_the_same_task_took_before(started: str, eta_s: float | None) -> None:
    """One that ran 20 s has finished; one 6 s old has 14 s left; one older than any seen: nobody knows."""
    first = answers.task(id="t1", started_at="2026-01-31T09:29:40.000000Z")
    second = answers.task(id="t2", started_at=f"2026-01-31T{started}.000000Z")
    wait = Wait()
    wait.sees(look(1, answers.worker(running=[first, second]), **BUSY))
    assert wait.sees(look(2, answers.worker(running=[second]), **BUSY)).eta_s == eta_s


def test_a_task_whose_worker_fell_silent_is_no_evidence() -> None:
    first, second = answers.task(id="t1", started_at="2026-01-31T09:29:00.000000Z"), answers.task(id="t2")
    wait = Wait()
    wait.sees(look(1, answers.worker(running=[first]), answers.worker("w2@host", running=[second]), **BUSY))
    silent = answers.worker(state="unknown")
    assert wait.sees(look(2, silent, answers.worker("w2@host", running=[second]), **BUSY)).eta_s is None


def test_an_old_life_that_is_listed_beside_the_new_one_is_waited_for() -> None:
    """A rolling deploy: the old worker ends its task while the new one is up, and leaves in order."""
    wait = Wait()
    new = answers.worker(incarnation="i2", namesakes=1)
    old = answers.worker(running=[answers.task()], namesakes=1)
    for at_s in (1, 2):
        verdict = wait.sees(look(at_s, *((old, new) if at_s == 1 else (new, old)), **BUSY))
        assert (verdict.outcome, verdict.losses) == (Outcome.WAITING, ())
        assert verdict.clashes == [
            "w1@host is the name of 2 workers: nothing is drained while more than one of them runs"
        ]
    verdict = wait.sees(look(3, answers.worker(state="gone"), answers.worker(incarnation="i2")))
    assert (verdict.outcome, verdict.clashes) == (Outcome.DRAINED, [])


def test_an_old_life_that_counts_no_more_is_lost_with_what_it_had() -> None:
    wait = Wait()
    old, new = answers.worker(running=[answers.task()]), answers.worker(incarnation="i2")
    assert wait.sees(look(1, old, new, **BUSY)).outcome is Outcome.WAITING
    verdict = wait.sees(look(2, new))
    assert (verdict.outcome, verdict.losses[0].how) == (Outcome.LOST, "was replaced by a new incarnation")


def test_l4_what_nobody_was_there_to_acknowledge_is_not_called_drained() -> None:
    """A wrong namespace, or workers that cannot beat, look like this: nothing runs, as far as is known."""
    assert Wait().sees(look(1)).outcome is Outcome.NOBODY
    allowed = Wait(Watch(target=TARGET, timeout_s=60.0, allows_empty=True))
    assert allowed.sees(look(1)).outcome is Outcome.DRAINED


def test_a_scope_that_its_last_worker_left_during_the_wait_has_drained() -> None:
    """Somebody was there at one look: it is known what became of what ran."""
    wait = Wait()
    assert wait.sees(look(1, answers.worker(appliedVersion=6), isDrained=False)).outcome is Outcome.WAITING
    assert wait.sees(look(2)).outcome is Outcome.DRAINED


def test_l4_with_somebody_consuming_who_is_not_heard_nothing_is_called_drained() -> None:
    assert Wait().sees(look(1, answers.worker(), strangers=["w9@h"])).outcome is Outcome.UNHEARD
    allowed = Wait(Watch(target=TARGET, timeout_s=60.0, allows_empty=True))
    assert allowed.sees(look(1, answers.worker(), strangers=["w9@h"])).outcome is Outcome.DRAINED


def test_l4_a_worker_ahead_of_what_is_ordered_has_yet_to_acknowledge() -> None:
    ahead = answers.worker(appliedVersion=23, ahead=True, standsAt="1.23")
    verdict = Wait().sees(look(60, ahead, isDrained=False))
    assert (verdict.outcome, [worker.nodename for worker in verdict.unacknowledged]) == (Outcome.TIMED_OUT, ["w1@host"])
