"""One stack for each test process; every test gets it whole and running, whatever the one before did to it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sluicegate.control.client import Client
from sluicegate.control.process.stack import Stack
from sluicegate.schemas.settings import TOKEN
from tests.fleet.rabbit import Rabbit, missing


@pytest.fixture(scope="session")
def one_stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-stack-", ignore_cleanup_errors=True) as directory,
        Stack(Path(directory), durable=False) as stack,
    ):
        yield stack


@pytest.fixture(scope="session")
def one_rabbit() -> Iterator[Rabbit]:
    if (why := missing()) is not None:
        # Where everything is installed on purpose, a test that did not run is a failure.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(why)
    with (
        tempfile.TemporaryDirectory(prefix="sluicegate-rabbit-", ignore_cleanup_errors=True) as directory,
        Rabbit(Path(directory)) as rabbit,
    ):
        yield rabbit
        rabbit.kill()  # its data go with it: it need not end in order


@pytest.fixture
def rabbit(one_rabbit: Rabbit) -> Rabbit:
    """A running RabbitMQ. A test may stop, kill or freeze it."""
    one_rabbit.thaw()
    if one_rabbit.was_killed:
        # RabbitMQ 3.10 was seen to have quorum queues afterwards, new ones too, that hand nothing on: the next test
        # would be about that.
        one_rabbit.renew()
    one_rabbit.start()
    return one_rabbit


@pytest.fixture
def stack(one_stack: Stack) -> Iterator[Stack]:
    """Postgres, Valkey and the control plane, running, with nothing held. A test may break any of them."""
    _heal(one_stack)
    yield one_stack
    _heal(one_stack)


def _heal(stack: Stack) -> None:
    stack.postgres.start()
    stack.valkey.thaw()
    stack.valkey.start()
    stack.start_control()
    with Client(stack.url, stack.environ[TOKEN.name]) as client:
        if client.read().body.system.workers_paused:
            client.resume(reason="the test is over", force=True)
