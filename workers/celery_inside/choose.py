"""Which pool, way back and loop a worker stands on; what cannot be held is refused."""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from sluicegate.schemas.adapters.redis_client import TIMEOUT_S
from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.redis_urls import refuse_other_kinds
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
        raise InvalidSetting(
            "worker_pool",
            f"{_name_of(worker.pool_cls)} is not supported: use prefork, threads, solo or gevent (Celery's own: one "
            f"that inherits from them starts tasks in a way that is not known)",
        )
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
    """Of exactly Celery's own: what one that inherits does otherwise is not known."""
    # docs/decisions/0034-exact-classes.md
    # By name: importing gevent's module where gevent is not installed or not wanted is no good idea.
    match _name_of(worker.pool_cls):
        case "celery.concurrency.prefork.TaskPool":
            return PreforkPool
        case "celery.concurrency.thread.TaskPool":
            return ThreadsPool
        case "celery.concurrency.solo.TaskPool":
            return SoloPool
        case "celery.concurrency.gevent.TaskPool":
            return GeventPool
    return None


def _name_of(pool_cls: Any) -> str:
    return f"{pool_cls.__module__}.{pool_cls.__qualname__}" if isinstance(pool_cls, type) else str(pool_cls)


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


def refuse_other_redis(worker: Any) -> None:
    """Raises InvalidSetting where a Redis Cluster answers as the broker, or where kombu can make nothing of its URL.

    It is asked as the worker itself will ask it: TLS, sockets and ways to sign in are as Celery was told. One that does
    not answer is not refused, nor is what sentinels watch.
    """
    conninfo = worker._conninfo
    if conninfo.transport.driver_type != "redis" or conninfo.transport_cls == "sentinel":
        return
    patience = {"socket_timeout": TIMEOUT_S, "socket_connect_timeout": TIMEOUT_S, "retry_on_timeout": False}
    # A connection of its own, and no more than one attempt: Celery's own comes later, and goes on trying.
    probe = conninfo.clone(transport_options={**conninfo.transport_options, **patience})
    transport = probe.transport
    try:
        transport.establish_connection()
        hello = transport.create_channel(transport).client.execute_command("HELLO")
    except (*probe.connection_errors, *probe.channel_errors):
        # Away, or older than HELLO, or it wants no such question: what it is shows when it is used.
        return
    except (ValueError, TypeError, RedisError) as error:
        # Its own text may show the password.
        raise InvalidSetting("broker_url", f"is not one that kombu can use ({type(error).__name__})") from None
    finally:
        transport.close_connection(transport)
    refuse_other_kinds(hello, "broker_url")
