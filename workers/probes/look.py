"""`python -m sluicegate.workers.probes.look`: one look at this host and its GPUs, as a probe makes it, in JSON.

It needs no worker, no control plane and no settings: what a probe would find here, and with CUDA_VISIBLE_DEVICES as the
worker would have it. Exit code 0: the driver serves, or there is none; 1: there is one, and it does not serve.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import replace

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.health.readings import DriverState, Readings
from sluicegate.schemas.health.wire import to_wire
from sluicegate.schemas.settings import lines_of
from sluicegate.workers.probes.child import Looking
from sluicegate.workers.probes.probe import ProbeSettings

WELL = (DriverState.SERVING, DriverState.ABSENT, DriverState.DISABLED)


def main() -> int:
    """Run the command; the exit code."""
    try:
        told = ProbeSettings.read(os.environ)
    except InvalidSetting as error:
        for line in lines_of(error):
            print(f"sluicegate: {line}", file=sys.stderr)
        return 2
    found: list[Readings] = []
    looking = Looking.of(json.loads(told.spelled()), os.getpid(), found.append)
    done = threading.Event()

    def look() -> None:
        looking.looks.look(is_brief=True)
        done.set()

    threading.Thread(target=look, daemon=True).start()
    while not done.wait(0.1):
        if stuck := looking.calls.stuck():
            looking.looks.stuck(stuck[0])
            break
    # The looking thread may have told meanwhile: the last word counts, whatever number it has.
    last = replace(found[-1], number=1)
    print(json.dumps(to_wire(last), indent=2), flush=True)
    # Not by the interpreter's own end, which would wait for a thread that hangs in a driver.
    code = 0 if last.driver in WELL else 1
    if not done.is_set():
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
