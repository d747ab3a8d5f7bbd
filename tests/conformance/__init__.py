"""One suite for each port of `workers/ports.py`: the facts that the core relies on, for every implementation.

A new pool, loop or broker is one more rig here, and nothing else: what the facts say is what `hands` needs. Those that
need a real server are with the integration tests (`tests/integration/test_way_back_redis.py`).
"""
