"""Which worker may run without a gate where nothing is set: the one of Celery's own test tools, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery.bin.worker
import click
import pytest
from celery import Celery
from celery.contrib.testing.worker import TestWorkController as CelerysTestWorker
from celery.result import _set_task_join_will_block  # type: ignore[attr-defined]
from celery.worker import WorkController

import sluicegate
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.made_by import is_made_by_command, is_test_worker


@pytest.fixture
def make() -> Iterator[Any]:
    """Make a worker of this class, of an app with the plugin and this environment."""
    apps: list[Celery] = []

    def made(cls: Any, environ: dict[str, str]) -> Any:
        app = Celery("made", broker="memory://", backend="cache+memory://", set_as_current=False)
        apps.append(app)
        sluicegate.install(app, environ)
        return cls(app=app, pool="solo", hostname="w1@made")

    yield made
    # Whoever makes a worker sets this for the whole process.
    _set_task_join_will_block(False)
    for app in apps:
        app.close()


def impostor() -> type:
    class TestWorkController(WorkController):
        """It has the name."""

    TestWorkController.__module__ = "celery.contrib.testing.worker"
    return TestWorkController


def heir() -> type:
    class Own(CelerysTestWorker):
        """A test suite's own test worker."""

    return Own


@pytest.mark.parametrize("cls", [CelerysTestWorker, heir()])
def test_a_test_worker_that_was_told_of_no_fleet_has_no_gate(make, cls):
    worker = make(cls, {"SLUICEGATE_NAMESPACE": "shop"})
    assert is_test_worker(worker)
    assert not hasattr(worker, "sluicegate")
    assert [step.name for step in worker.steps if "sluicegate" in step.name] == []


@pytest.mark.parametrize("cls", [WorkController, impostor()])
def test_any_other_worker_without_settings_is_refused_and_told_the_ways_out(make, cls):
    with pytest.raises(InvalidSetting, match="SLUICEGATE_REDIS_URL: is not set") as caught:
        make(cls, {})
    assert "SLUICEGATE_ENABLED=false" in str(caught.value)
    assert "sluicegate.testing" in str(caught.value)


@pytest.mark.parametrize(
    "environ", [{"SLUICEGATE_REDIS_URL": "redis://127.0.0.1:1/0"}, {"SLUICEGATE_PUBLIC_KEYS": "x"}]
)
def test_a_test_worker_that_was_told_half_of_a_fleet_is_refused_too(make, environ):
    """Somebody wanted a gate: a test that passes without one would prove nothing."""
    with pytest.raises(InvalidSetting):
        make(CelerysTestWorker, environ)


def test_a_test_worker_with_a_wrong_switch_is_refused(make):
    with pytest.raises(InvalidSetting, match="SLUICEGATE_ENABLED"):
        make(CelerysTestWorker, {"SLUICEGATE_ENABLED": "maybe"})


def test_the_command_ends_with_a_line_for_each_setting_and_exit_code_2(make, capsys):
    with click.Context(celery.bin.worker.worker), pytest.raises(SystemExit) as caught:
        make(WorkController, {})
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("sluicegate: SLUICEGATE_REDIS_URL: is not set")
    assert "sluicegate: SLUICEGATE_PUBLIC_KEYS: is not set" in said
    assert said.count("\n") == 3


def test_a_worker_is_told_of_everything_that_is_wrong(make):
    """Not of one after the other; of one setting once."""
    given = {
        "SLUICEGATE_REDIS_URL": "redis://:secret@h?foo=1",
        "SLUICEGATE_BOOT_POLICY": "maybe",
        "SLUICEGATE_LABELS": "=",
        "SLUICEGATE_PAUSE_POLL_INTERVAL_MS": "1",
    }
    with pytest.raises(InvalidSetting) as caught:
        make(WorkController, given)
    for name in (*given, "SLUICEGATE_PUBLIC_KEYS"):
        assert str(caught.value).count(f"{name}: ") == 1
    assert "secret" not in str(caught.value)


def test_a_program_of_ones_own_is_not_the_command():
    assert not is_made_by_command()
    with click.Context(click.Command("worker")):
        assert not is_made_by_command()
    with click.Context(celery.bin.worker.worker):
        assert is_made_by_command()
