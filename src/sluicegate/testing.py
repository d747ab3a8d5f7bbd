"""For the tests of those who build on sluicegate: a gate that a test opens and closes; checkpoints without a worker.

`gate`, `quiesced` and `resumed` are context managers and need nothing. With `pytest_plugins = ["sluicegate.testing"]`
there are fixtures too: `sluicegate_gate`, `sluicegate_worker`, `sluicegate_app`. docs/testing-your-tasks.md shows all.

PYTEST_DONT_REWRITE: there is nothing in here that pytest could explain better.
"""

from importlib.util import find_spec

from sluicegate.workers.testing.trial_gate import TrialGate, gate
from sluicegate.workers.testing.trial_run import TrialRun, quiesced, resumed

__all__ = ["TrialGate", "TrialRun", "gate", "quiesced", "resumed"]

if find_spec("pytest") is not None:
    from sluicegate.workers.testing.fixtures import sluicegate_app, sluicegate_gate, sluicegate_worker

    __all__ += ["sluicegate_app", "sluicegate_gate", "sluicegate_worker"]
