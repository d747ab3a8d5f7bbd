"""celery-singleton and celery-once: a task that waits or runs is not sent a second time.

python -m tests.beside.apps.locking singleton|once FIRST COUNT     sends, and prints the ids, one a line
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from celery_once import QueueOnce
from celery_singleton import Singleton

from tests.beside.apps.recorded import recorded
from tests.fleet.app import app

TAKES_S = 0.1
LOCKS = "beside-once"

app.conf.ONCE = {
    "backend": "celery_once.backends.Redis",
    "settings": {"url": os.environ["FLEET_BROKER_URL"], "default_timeout": 300},
}
app.conf.singleton_backend_url = os.environ["FLEET_BROKER_URL"]


@app.task(bind=True, name="fleet.singleton", base=Singleton)
def singleton(self: Any, seq: int) -> None:
    """Run, with a lock from its sending to its end."""
    with recorded(self.request, seq):
        time.sleep(TAKES_S)


@app.task(bind=True, name="fleet.once", base=QueueOnce, once={"graceful": True})
def once(self: Any, seq: int) -> None:
    """The same."""
    with recorded(self.request, seq):
        time.sleep(TAKES_S)


if __name__ == "__main__":
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for seq in range(first, first + count):
        print({"singleton": singleton, "once": once}[kind].delay(seq).id)
