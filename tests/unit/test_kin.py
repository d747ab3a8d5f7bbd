"""Whose processes use a GPU, on a /proc that the test wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluicegate.workers.probes.kin import Kin


class Processes:
    """A /proc of files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, pid: int, parent: int, *, started: int = 100, name: str = "celery") -> None:
        (self.folder / str(pid)).mkdir(parents=True, exist_ok=True)
        rest = ["S", str(parent), *["0"] * 17, str(started), "0"]
        (self.folder / str(pid) / "stat").write_text(f"{pid} ({name}) {' '.join(rest)}\n")


@pytest.fixture
def proc(tmp_path: Path) -> Processes:
    processes = Processes(tmp_path / "proc")
    processes.add(10, 1)
    processes.add(20, 1)
    return processes


def noted(tmp_path: Path, proc: Processes, pid: int) -> Kin:
    kin = Kin(tmp_path / "run" / "default", pid, proc.folder)
    assert kin.note() is None
    return kin


def test_pool_children_and_what_tasks_start_are_ours_on_any_worker_of_the_host(tmp_path: Path, proc: Processes) -> None:
    kin = noted(tmp_path, proc, 10)
    noted(tmp_path, proc, 20)
    proc.add(11, 10)
    proc.add(12, 11, name="a) name (of) its own")
    proc.add(21, 20)
    proc.add(30, 1)
    assert kin.ours([10, 12, 21, 30, 999]) == {10, 12, 21}


def test_a_worker_that_left_or_died_is_nobodys_kin_and_its_id_may_come_again(tmp_path: Path, proc: Processes) -> None:
    kin, other = noted(tmp_path, proc, 10), noted(tmp_path, proc, 20)
    proc.add(20, 1, started=999)
    assert kin.ours([20]) == frozenset()
    other.note()
    assert kin.ours([20]) == {20}
    other.leave()
    assert kin.ours([20]) == frozenset()


def test_without_a_folder_a_worker_still_knows_its_own(tmp_path: Path, proc: Processes) -> None:
    (tmp_path / "run").write_text("no folder")
    kin = Kin(tmp_path / "run" / "default", 10, proc.folder)
    assert "only this worker's own" in str(kin.note())
    proc.add(11, 10)
    assert kin.ours([11, 20]) == {11}
