"""Every start tells Redis: what a gate costs that keeps its books on the hot path."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from sluicegate.schemas.adapters.redis_client import connect
from sluicegate.schemas.redis_urls import server_at
from sluicegate.schemas.settings import REDIS_URL
from sluicegate.workers.gate import Gate
from tests.fleet.app import app

pass_through = Gate.pass_through
_redis = connect(server_at(REDIS_URL.read(os.environ), REDIS_URL.name))


def pass_through_and_tell(self: Gate[Any], start: Callable[[Any], None], request: Any) -> bool:
    is_let_through = pass_through(self, start, request)
    _redis.incr("mutant:starts")
    return is_let_through


Gate.pass_through = pass_through_and_tell  # type: ignore[method-assign]
__all__ = ["app"]
