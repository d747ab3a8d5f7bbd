"""What a worker's lines carry beside their text (docs/logging.md)."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from uuid import UUID

import pytest

from sluicegate.schemas.modes import Mode
from sluicegate.schemas.scopes import GLOBAL, Scope
from sluicegate.schemas.snapshots import Edition
from sluicegate.workers import log
from tests.unit.test_gate import make, state

FIELDS = (log.NAMESPACE, log.WORKER, log.VERSION, log.HOLD)


@pytest.fixture(autouse=True)
def described(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that a worker has described, and that is as before afterwards."""
    monkeypatch.setattr(log, "_describe", log._describe)
    log.describe(namespace="default", worker="w1@h", version=lambda: Edition(1, 7))


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    return {name: record.__dict__[name] for name in FIELDS if name in record.__dict__}


def test_every_line_tells_namespace_worker_and_the_version_in_force(caplog: pytest.LogCaptureFixture) -> None:
    log.logger("sluicegate.workers.test").warning("sluicegate: something")
    (record,) = caplog.records
    assert fields_of(record) == {log.NAMESPACE: "default", log.WORKER: "w1@h", log.VERSION: "1.7"}


def test_before_the_worker_is_known_a_line_says_nothing_of_it(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_describe", dict)
    log.logger("sluicegate.workers.test").warning("sluicegate: something")
    assert fields_of(caplog.records[0]) == {}


@pytest.mark.parametrize("scope", [GLOBAL, Scope.parse("queue:mail")])
def test_what_a_pause_and_its_end_say_tells_the_hold_and_the_version_it_is_about(
    caplog: pytest.LogCaptureFixture, scope: Scope
) -> None:
    caplog.set_level(logging.INFO)
    gate = make()
    for ordered in (state(1), state(2, Mode.DRAIN, Mode.QUIESCE, scope=scope), state(3)):
        gate.put_in_force(ordered)
        gate.acknowledge(gate.standing)
    began, held, ended = (fields_of(record) for record in caplog.records)
    both = {str(UUID(int=0)), str(UUID(int=1))}
    assert log.HOLD not in began
    assert [set(record[log.HOLD].split(",")) for record in (held, ended)] == [both, both]
    assert [record[log.VERSION] for record in (began, held, ended)] == ["1.1", "1.2", "1.3"]


def test_the_fields_are_documented_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs/logging.md").read_text()
    assert set(re.findall(r"^\| `(sluicegate_\w+)` \|", page, re.MULTILINE)) == set(FIELDS)
