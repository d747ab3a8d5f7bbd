"""Workers with a gate that was broken on purpose: the checker must catch each (`test_mutants.py`).

Each module is an app for `celery -A`: it breaks one promise in `sluicegate.workers`, in its own process only,
and then is the fleet's ordinary app. The patches stand on the gate's private names: when one of those changes,
the mutant stops being one, and its test fails because the checker finds nothing.
"""
