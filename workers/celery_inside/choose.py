"""Which pool, way back and loop a worker stands on; what cannot be held is refused."""

from __future__ import annotations

from typing import Any

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.amqp_hand_back import IN_HAND_S, AmqpWayBack
from sluicegate.workers.celery_inside.books import CeleryBooks
from sluicegate.workers.celery_inside.consumer import CeleryConsumer
from sluicegate.workers.celery_inside.in_process import GeventPool, SoloPool, ThreadsPool
from sluicegate.workers.celery_inside.loops import DrainLoop, HubLoop
from sluicegate.workers.celery_inside.prefork import PreforkPool
from sluicegate.workers.celery_inside.redis_hand_back import RedisWayBack
from sluicegate.workers.cell import Cell
from sluicegate.workers.log import logger
from sluicegate.workers.ports import Sides, WayBack

log = logger(__name__)


def sides_of(worker: Any, cell: Cell, *, in_hand_s: float = IN_HAND_S) -> Sides:
    """The sides of this worker; raises InvalidSetting for what cannot be held. A gate that leaks is worse than none.

    `in_hand_s`: how long messages may be kept here that are better not returned (`AmqpWayBack`).
    """
    pool = _pool_side(worker)
    if pool is None:
        name = getattr(worker.pool_cls, "__module__", worker.pool_cls)
        raise InvalidSetting("worker_pool", f"{name} is not supported: use prefork, threads, solo or gevent")
    if pool is PreforkPool:
        # Celery 5.5 and 5.6 have no such setting: they always fork.
        if getattr(worker, "pool_start_method", "fork") != "fork":
            raise InvalidSetting("worker_pool_start_method", "spawn is not supported by this version: use fork")
        if worker.optimization in ("fast", "fcfs"):
            log.warning("sluicegate: with -O fast tasks are written ahead to busy children: a pause waits for them")
    way_back = _way_back(worker, in_hand_s)
    if worker.use_eventloop == (pool is GeventPool):
        raise InvalidSetting("worker_pool", f"{pool.name} with this broker has another event loop than was foreseen")
    return Sides(
        pool=pool(worker, cell),
        way_back=way_back,
        loop=HubLoop(worker) if worker.use_eventloop else DrainLoop(),
        consumer=CeleryConsumer(),
        books=CeleryBooks(worker),
    )


def _pool_side(worker: Any) -> type[PreforkPool | ThreadsPool | SoloPool | GeventPool] | None:
    for cls in getattr(worker.pool_cls, "__mro__", ()):
        # By name: importing gevent's module where gevent is not installed or not wanted is no good idea.
        match (cls.__module__, cls.__name__):
            case ("celery.concurrency.prefork", "TaskPool"):
                return PreforkPool
            case ("celery.concurrency.thread", "TaskPool"):
                return ThreadsPool
            case ("celery.concurrency.solo", "TaskPool"):
                return SoloPool
            case ("celery.concurrency.gevent", "TaskPool"):
                return GeventPool
    return None


def _way_back(worker: Any, in_hand_s: float) -> WayBack:
    transport = worker._conninfo.transport
    if transport.driver_name == "py-amqp":
        return AmqpWayBack(in_hand_s)
    if transport.driver_type != "redis":
        raise InvalidSetting(
            "broker_url", f"{transport.driver_type} is not supported by this version: use Redis or RabbitMQ (py-amqp)"
        )
    if not worker._conninfo.transport_options.get("ack_emulation", True):
        raise InvalidSetting("broker_transport_options", "ack_emulation=False loses what is handed back: leave it on")
    if worker._conninfo.transport_cls == "sentinel" and not worker._conninfo.transport_options.get("master_name"):
        # kombu says so too, in a traceback.
        raise InvalidSetting("broker_transport_options", "has no master_name: the broker's URL names sentinels")
    return RedisWayBack()


def redis_broker_of(worker: Any) -> str | None:
    """The URL of the one Redis that the worker consumes from; None where it is another broker, or asks sentinels."""
    url = str(worker._conninfo.as_uri(include_password=True))
    return url if url.startswith(("redis://", "rediss://")) else None
