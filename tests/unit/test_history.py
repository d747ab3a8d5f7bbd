"""Faults of GPUs on disk: they outlive the probe, not the boot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sluicegate.schemas.health.wire import MAX_XIDS
from sluicegate.workers.probes import history
from sluicegate.workers.probes.history import History

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def note(one: History, code: int, *, at: datetime = NOON, uuid: str = "GPU-1") -> None:
    one.note_xid(uuid, code, at, before_writing=lambda: None)


def codes(path: Path, boot: str = "boot") -> list[int]:
    return [xid.code for xid in History(path, boot, "9").of("GPU-1")]


def test_a_fault_is_known_to_the_next_probe_of_this_boot_and_of_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a" / "gpus.ndjson"
    note(History(path, "boot", "1"), 79)
    assert codes(path) == [79]
    assert codes(path, "another") == []


def test_two_probes_that_tell_of_one_event_tell_of_one(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ndjson"
    for writer, later in (("1", 0.0), ("2", 0.4), ("1", 30.0), ("2", 30.1)):
        note(History(path, "boot", writer), 31, at=NOON + timedelta(seconds=later))
    assert codes(path) == [31, 31]


def test_one_probe_that_saw_two_events_within_a_moment_saw_two(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ndjson"
    note(History(path, "boot", "1"), 31)
    note(History(path, "boot", "1"), 31, at=NOON + timedelta(seconds=1))
    assert codes(path) == [31, 31]


def test_a_file_that_holds_anything_at_all_costs_only_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ndjson"
    note(History(path, "boot", "1"), 48)
    with path.open("ab") as file:
        file.write(b'\xff\n[1]\n{"boot":"boot","xid":"x"}\n{"boot":"boot","gpus":2,"uuids":[]}\n{"boot":')
    assert codes(path) == [48]


def test_gpus_are_remembered_by_index(tmp_path: Path) -> None:
    path = tmp_path / "gpus.ndjson"
    History(path, "boot", "1").note_gpus({0: "GPU-1", 1: "GPU-2"}, 2)
    again = History(path, "boot", "2")
    assert (again.most_gpus, again.uuids) == (2, {0: "GPU-1", 1: "GPU-2"})


def test_a_storm_of_faults_fills_neither_the_disk_nor_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device may report thousands a second, for days."""
    path = tmp_path / "gpus.ndjson"
    now = iter(float(second) for second in range(100_000))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    one = History(path, "boot", "1")
    note(one, 79)
    for second in range(5_000):
        note(one, 31, at=NOON + timedelta(seconds=second))
    assert path.stat().st_size <= history.LARGEST + 1000
    assert len(one.of("GPU-1")) <= MAX_XIDS
    assert 79 in codes(path)


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one = History(tmp_path / "file" / "gpus.ndjson", "boot", "1")
    note(one, 79)
    assert "cannot be written" in str(one.complaint)
    assert [xid.code for xid in one.of("GPU-1")] == [79]
