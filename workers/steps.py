"""The bootsteps: one for the life of the process, one for each broker connection.

`install` imports this module, in processes that only send tasks too, and perhaps before other libraries are set up.
So it imports nothing of Celery that a worker alone needs: what was imported by name before a library replaced it there
stays as it was, and the library would do nothing.

The first is a worker step, since Celery restarts consumer steps when the broker drops and a pause must outlive
that. It is made after the pool and before the pool forks, so that children share the cell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from celery import bootsteps

from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.printable import printable
from sluicegate.workers.celery_inside.made_by import is_made_by_command, is_test_worker
from sluicegate.workers.celery_inside.marks import MEMBER
from sluicegate.workers.celery_inside.switched_off import LeftAside
from sluicegate.workers.log import logger

log = logger(__name__)

WAY_OUT = f"{settings.ENABLED.name}=false runs this worker without the gate; for tests there is sluicegate.testing"


@contextmanager
def _refusing() -> Iterator[None]:
    """Settings that are wrong stop the worker before it consumes anything.

    The command ends with a line for each and exit code 2; who makes a worker otherwise gets the InvalidSetting.
    """
    try:
        yield
    except InvalidSetting as error:
        if not is_made_by_command():
            raise InvalidSetting(error.field, f"{error.message} ({WAY_OUT})") from None
        for line in settings.lines_of(error):
            print(f"sluicegate: {printable(line)}", file=sys.stderr)
        raise SystemExit(2) from None


def _names_a_fleet(environ: Mapping[str, str]) -> bool:
    """Is one of the settings there without which no worker can follow any fleet?"""
    return any(setting.read_or_none(environ) is not None for setting in (settings.REDIS_URL, settings.PUBLIC_KEYS))


class FollowHolds(bootsteps.StartStopStep):
    """Keep the gate current for the life of the process."""

    requires = ("celery.worker.components:Pool",)
    environ: Mapping[str, str] = os.environ

    def include_if(self, w: Any) -> bool:
        """With SLUICEGATE_ENABLED=false nothing is put in anywhere: vanilla Celery, but for `HandBackAside`.

        Nor into the worker of a test that was told of no fleet: a test suite runs as it did without us.
        """
        with _refusing():
            if not settings.ENABLED.read(self.environ):
                return False
            if is_test_worker(w) and not _names_a_fleet(self.environ):
                log.info("sluicegate: a worker of celery.contrib.testing without settings has no gate")
                return False
            return True

    def create(self, w: Any) -> Any:
        """Make the member; a setting that is missing stops the worker here."""
        from sluicegate.workers.celery_inside import commands
        from sluicegate.workers.member import Member

        commands.register()
        with _refusing():
            w.sluicegate = Member(w, self.environ)
        return w.sluicegate

    def start(self, w: Any) -> None:
        """The pool has forked."""
        w.sluicegate.start()

    def stop(self, w: Any) -> None:
        """Where the consumer broke down, nobody has told its steps to stop: then this is the first to hear of it.

        The pool's tasks go on for a while, and the goodbye waits for them (`worker_shutdown`).
        """
        w.sluicegate.hands.close()

    def terminate(self, w: Any) -> None:
        """As `stop`."""
        w.sluicegate.hands.close()

    def info(self, w: Any) -> Any:
        """For `celery inspect stats`."""
        return {"sluicegate": w.sluicegate.report.info()}


class GuardConsumer(bootsteps.StartStopStep):
    """Stand between a new broker connection's task consumer and its first `consume()`."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def include_if(self, c: Any) -> bool:
        """Only where the worker step is in."""
        return hasattr(c.controller, MEMBER)

    def create(self, c: Any) -> None:
        """Tasks may be registered later than the worker was made, and are not taken in unseen."""
        from sluicegate.workers.celery_inside.consumer import look_before_strategies

        member = c.controller.sluicegate

        def look(is_starting: bool) -> None:
            with _refusing() if is_starting else nullcontext():
                member.look_at_tasks()

        look_before_strategies(c, look)

    def start(self, c: Any) -> None:
        """After `Tasks` made the consumer, before the event loop consumes."""
        c.controller.sluicegate.hands.attach(c)

    def stop(self, c: Any) -> None:
        """`Tasks` cancels the consumer itself."""
        from sluicegate.workers.celery_inside.consumer import is_stopping

        hands = c.controller.sluicegate.hands
        if is_stopping(c):
            hands.close()
        else:
            hands.detach()

    def register_with_event_loop(self, c: Any, hub: Any) -> None:
        """Each time the event loop starts, and before it consumes."""
        c.controller.sluicegate.hands.register(hub)


class HandBackAside(bootsteps.StartStopStep):
    """With SLUICEGATE_ENABLED=false: what others set aside of this worker's queues is plain Celery's again.

    At its start, before it consumes, and every minute: while a fleet is switched off worker by worker, those that have
    not been yet still set tasks aside.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)
    environ: Mapping[str, str] = os.environ
    EVERY_S = 60.0

    def __init__(self, c: Any, **more: Any) -> None:
        """`_entry` is the timer's, while there is a broker connection."""
        super().__init__(c, **more)
        self._entry: Any = None

    def include_if(self, c: Any) -> bool:
        """Only where the worker is switched off, and on Redis: what lies aside elsewhere, the broker itself returns."""
        is_off = not hasattr(c.controller, MEMBER) and not settings.ENABLED.read(self.environ)
        return is_off and LeftAside.may_be_at(c)

    def start(self, c: Any) -> None:
        """For each broker connection."""
        left = LeftAside(c)
        left.hand_back()
        self._entry = c.timer.call_repeatedly(self.EVERY_S, left.hand_back)

    def stop(self, c: Any) -> None:
        """The connection goes."""
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
