"""The signing key is changed under a fleet that runs, by the steps of docs/security.md."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.control.process.stack import Stack
from sluicegate.control.publishing import signing_key
from sluicegate.schemas.settings import PUBLIC_KEYS
from tests.fleet.harness import Fleet
from tests.fleet.waiting import until


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """One of its own: the others of this process must find the key with which theirs began."""
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-rotation-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), durable=False) as stack,
    ):
        yield stack


@pytest.mark.long
def test_workers_that_trust_both_keys_follow_from_one_to_the_other(own_stack: Stack) -> None:
    """No restart, no gap; a pause of before holds on. Who trusts the old key alone keeps its state, and says so."""
    old = own_stack.environ[PUBLIC_KEYS.name]
    new_file = own_stack.state_dir / "next.key"
    new = signing_key.create(new_file)
    with Fleet(own_stack) as fleet:
        fleet.watch()
        fleet.start("w1", environ={PUBLIC_KEYS.name: f"{old},{new}"}, wait=False)
        fleet.start("w2", slots=1, wait=False)
        fleet.wait_ready()
        fleet.wait_open()
        both = fleet.workers["w1"].pid
        fleet.send_naps(40, 0.02)
        fleet.wait_started(5)
        fleet.pause()
        fleet.wait_drained()

        own_stack.stop_control()
        new_file.replace(own_stack.state_dir / "signing.key")
        own_stack.start_control()
        # The control plane still trusts the old one: it goes on above what it finds instead of raising an alarm.
        assert "ALARM" not in own_stack.control_log.read_text()

        (stubborn,) = until(
            "w2 has refused a state", lambda: [w for w in fleet.words("w2") if w.refused.get("bad_signature")]
        )
        assert stubborn.state == "paused"
        assert "state not taken (bad_signature)" in fleet.workers["w2"].process.output
        fleet.stays_still(for_s=0.5)
        fleet.resume()
        fleet.wait_open("w1")
        fleet.wait_done()
        assert fleet.words("w1")[0].refused.get("bad_signature", 0) == 0
        assert fleet.workers["w1"].pid == both
        assert fleet.words("w2")[0].state == "paused"

        # The last step: a worker that trusts the new key alone.
        fleet.workers["w2"].stop()
        fleet.start("w2", slots=1, environ={PUBLIC_KEYS.name: new})
        fleet.wait_open()
        fleet.pause()
        fleet.wait_acknowledged()
        fleet.resume()
        fleet.wait_open()
        verdict = fleet.check()
    # The order across workers is not what a key can change: test_drain judges it.
    assert {what: count for what, count in verdict.broken.items() if what != "displaced"} == {}
