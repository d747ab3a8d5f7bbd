"""The two recoveries of docs/recovery.md, under a fleet that lives on: everything lost but the key, and both stores
restored from a while ago. Nobody is called quiet who is not, what was paused stays paused, and orders work again.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.control.access import tokens
from sluicegate.control.process.stack import Stack
from tests.fleet.harness import Fleet
from tests.fleet.restores import Stores
from tests.fleet.waiting import until
from tests.marks import long

CLI = [sys.executable, "-m", "sluicegate.control.cli"]


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack of the test's own: its database has another life afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-stack-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), durable=False) as stack,
    ):
        yield stack


def _at_work(fleet: Fleet) -> None:
    fleet.watch()
    for name in ("w1", "w2"):
        fleet.start(name, wait=False)
    fleet.wait_ready()
    fleet.wait_open()
    fleet.send_naps(400, 0.05)
    fleet.wait_started(10)


def _order_a_few_times(fleet: Fleet) -> None:
    """So that the workers stand well above what a new database begins with."""
    for _ in range(3):
        fleet.pause()
        fleet.wait_acknowledged()
        fleet.resume()
        fleet.wait_open()


def _go_back(stores: Stores, how: str) -> None:
    stores.lose() if how == "lost" else stores.restore()


def _each_started_once(fleet: Fleet) -> bool:
    starts = Counter(record.seq for record in fleet.read_records() if record.event == "start")
    return set(starts) == {sent.seq for sent in fleet.sent} and set(starts.values()) == {1}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["lost", long("restored")])
def test_l4_s5_s6_l2_a_pause_of_a_running_fleet_after_both_stores_went_back(own_stack: Stack, how: str) -> None:
    """The workers stand at 1.8, and the pause is 1.2: it is drained when they have taken it, and not before."""
    with Fleet(own_stack) as fleet:
        stores = Stores(own_stack)
        if how == "restored":
            stores.copy()
        _at_work(fleet)
        _order_a_few_times(fleet)
        _go_back(stores, how)
        with fleet.fed(0.05):
            paused = fleet.run([*CLI, "pause", "--reason", "after the restore", "--wait", "--timeout", "60s", "--json"])
            before = fleet.count_starts()
            assert paused.returncode == 0, paused.stdout + paused.stderr
            assert json.loads(paused.stdout)["wait"]["outcome"] == "drained"
            assert not fleet.running()
            fleet.stays_still(for_s=2.0)
            assert fleet.count_starts() == before
        system = fleet.client.read().body.system
        assert system.epoch == 2
        # Everybody stands at what is ordered now, and it is this pause.
        assert {word.edition for word in fleet.words()} == {(system.epoch, system.version)}
        fleet.client.resume(reason="test", force=False)
        fleet.wait_done()
        assert _each_started_once(fleet)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [long("lost"), "restored"])
def test_s9_s5_s6_l2_a_fleet_paused_when_both_stores_went_back_stays_paused(own_stack: Stack, how: str) -> None:
    """Neither store knows of the pause. The workers do, and show it: it is in force again until somebody resumes."""
    with Fleet(own_stack) as fleet:
        stores = Stores(own_stack)
        if how == "restored":
            stores.copy()
        _at_work(fleet)
        _order_a_few_times(fleet)
        fleet.pause("the host goes down")
        fleet.wait_drained()
        before = fleet.count_starts()
        _go_back(stores, how)
        until("the epoch is raised", lambda: fleet.client.read().body.system.epoch == 2, every_s=0.1)
        system = fleet.client.read().body.system
        assert (system.workers_paused, system.reason) == (True, "the host goes down")
        until(
            "everybody stands at it",
            lambda: {word.edition for word in fleet.words()} == {(system.epoch, system.version)},
        )
        # A worker that is started now finds a fleet that is held.
        fleet.workers["w2"].kill()
        fleet.restart("w2")
        fleet.stays_still(for_s=3.0)
        assert fleet.count_starts() == before
        until("it is drained", lambda: fleet.client.read().body.metrics.is_drained, every_s=0.1)
        fleet.client.resume(reason="all is well", force=False)
        fleet.wait_done()
        assert _each_started_once(fleet)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_s9_l2_workers_that_only_remember_are_brought_back_by_an_epoch_that_is_raised(own_stack: Stack) -> None:
    """All were restarted meanwhile: none can show a signed state, each remembers on disk what it applied."""
    with Fleet(own_stack) as fleet:
        stores = Stores(own_stack)
        _at_work(fleet)
        _order_a_few_times(fleet)
        for worker in fleet.workers.values():
            worker.kill()
        stores.lose()
        for name in fleet.workers:
            fleet.restart(name)
        told = until(
            "they are told of", lambda: [w for w in fleet.client.workers().body.workers if w.ahead], every_s=0.1
        )
        assert told[0].stands_at == "1.7"
        fleet.stays_still(for_s=2.0)
        status = fleet.run([*CLI, "status"])
        assert "sluicegate epoch raise" in status.stdout
        (fleet.directory / "admin").write_text(tokens.create(own_stack.postgres.url, "root", "admin"))
        token = ["--token-file", str(fleet.directory / "admin")]
        raised = fleet.run([*CLI, "epoch", "raise", "--reason", "both stores were lost", *token])
        assert raised.returncode == 0, raised.stderr
        assert "edition 2.2, above 1.7" in raised.stdout
        fleet.wait_open()
        assert all(word.edition == (2, 2) for word in fleet.words())
