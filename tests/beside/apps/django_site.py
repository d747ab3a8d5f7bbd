"""A Django project in one module: results in its database, and the schedule of its beat.

python -m tests.beside.apps.django_site migrate|schedule
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.beside.apps.django_settings"

import django

django.setup()

from tests.beside.apps.recorded import recorded  # noqa: E402
from tests.beside.apps.ticks import EVERY_S, NO_NUMBER, TICKS, add_tick  # noqa: E402
from tests.fleet.app import app  # noqa: E402

app.conf.update(result_backend="django-db", task_ignore_result=False)
add_tick(app)


@app.task(bind=True, name="fleet.kept")
def kept(self: Any, seq: int, seconds: float) -> int:
    """Take `seconds`; the number is its result."""
    with recorded(self.request, seq):
        time.sleep(seconds)
    return seq


def schedule() -> None:
    """A tick for beat to send."""
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    every, _ = IntervalSchedule.objects.get_or_create(
        every=int(EVERY_S * 1000000), period=IntervalSchedule.MICROSECONDS
    )
    PeriodicTask.objects.create(name="tick", task="fleet.tick", interval=every, args=f"[{NO_NUMBER}]", queue=TICKS)


if __name__ == "__main__":
    if sys.argv[1] == "schedule":
        schedule()
    else:
        from django.core.management import call_command

        call_command(sys.argv[1], verbosity=0)
