"""Celery, kombu and billiard still are what `workers/celery_inside.py` was read from.

A failure here means: read that file's list again against the new version, before anything else.
"""

from __future__ import annotations

import inspect
from collections import deque
from importlib.metadata import version

import billiard.pool
import pytest
from celery import Celery, bootsteps, signals
from celery.app import trace
from celery.concurrency import asynpool, prefork
from celery.worker import WorkController, components, loops, request, state, strategy
from celery.worker.consumer import Consumer, tasks
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.asynchronous.timer import Timer
from kombu.transport import redis, virtual
from kombu.utils.limits import TokenBucket

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside import READ_FROM, _eta_entries, check_worker

READ_AGAIN = "changed: read workers/celery_inside.py again against this version"


def source(what: object) -> str:
    return inspect.getsource(what)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", sorted(READ_FROM))
def test_the_installed_version_is_one_that_was_read(package):
    minor = ".".join(version(package).split(".")[:2])
    assert minor in READ_FROM[package], f"{package} {minor} was never read: do so, then add it"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        # Every start goes through _process_task, looked up at call time where a semaphore guards the pool.
        (WorkController._process_task_sem, "self._quick_acquire(self._process_task, req)"),
        (WorkController._process_task, "req.execute_using_pool(self.pool)"),
        (components.Pool.create, "w.process_task = w._process_task"),
        (components.Pool.create, "w.process_task = w._process_task_sem"),
        (components.Pool.create, "w._quick_release = w.semaphore.release"),
        (components.Consumer.create, "w.consumer_cls, w.process_task"),
        (Consumer.apply_eta_task, "self.on_task_request(task)"),
        (Consumer._limit_move_to_pool, "self.on_task_request(request)"),
        # What waits: rate-limit buckets, and the timer's entries, with the request first among the arguments.
        (Consumer._limit_task, "bucket.add((request, tokens))"),
        (strategy.default, "apply_eta_task, (req,)"),
        (strategy.default, "limit_post_eta, (req, bucket, 1)"),
        (strategy.default, "consumer.qos.increment_eventually()"),
        (Consumer.apply_eta_task, "self.qos.decrement_eventually()"),
        # The task consumer is made by the Tasks step, and first consumes when the event loop starts.
        (tasks.Tasks.start, "c.task_consumer = c.app.amqp.TaskConsumer"),
        (loops.asynloop, "consumer.on_message = on_task_received"),
        (loops.asynloop, "obj.register_with_event_loop(hub)"),
        (loops.asynloop, "consumer.consume()"),
        (Consumer.add_task_queue, "cset.consume()"),
        # The pool: jobs wait in outbound_buffer; a job is in _cache until its result is there.
        (asynpool.AsynPool.__init__, "self.outbound_buffer = deque()"),
        (billiard.pool.ApplyResult.__init__, "cache[self._job] = self"),
        (billiard.pool.ApplyResult.__init__, "self._accept_callback = accept_callback"),
        (billiard.pool.ApplyResult.discard, "self._cache.pop(self._job, None)"),
        (billiard.pool.ApplyResult._ack, "self._worker_pid = pid"),
        (billiard.pool.ApplyResult._ack, "self._accepted = True"),
        (billiard.pool.Pool._create_worker_process, "w.index = i"),
        (request.create_request_cls, "accept_callback=self.on_accepted"),
        (request.create_request_cls, "correlation_id=task_id"),
        (request.Request.acknowledge, "if not self.acknowledged:"),
        (request.Request.reject, "if not self.acknowledged:"),
        (asynpool.AsynPool.flush, "job.discard()"),
        (Consumer.on_close, "self.pool.flush()"),
        (prefork.TaskPool.on_start, "self.flush = getattr(P, 'flush', None)"),
        (prefork.process_initializer, "task.__trace__ = build_tracer("),
        (prefork.process_initializer, "signals.worker_process_init.send("),
        # What is seen last before the task's own code, and what a child calls.
        (trace.build_tracer, "task_before_start(uuid, args, kwargs) R = retval = fun(*args, **kwargs)"),
        (trace.build_tracer, "if task_has_custom(task, 'before_start'): task_before_start = task.before_start"),
        (trace.fast_trace_task, "tasks[task].__trace__("),
        # Redis: the message is in the unacked hash and its tag in the index; the callback is found by queue name.
        (redis.QoS.append, "hset(self.unacked_key, delivery_tag"),
        (redis.QoS.append, "zadd(self.unacked_index_key"),
        (redis.QoS.append, "dumps([message._raw, EX, RK])"),
        (redis.Channel._put, "self._q_for_pri(queue, pri)"),
        (redis.Channel._put, "client.lpush("),
        (redis.Channel._brpop_read, "self.connection._deliver(loads(bytes_to_str(item)), dest)"),
        (virtual.Transport._deliver, "self._callbacks[queue]"),
        (virtual.Channel.basic_consume, "self.connection._callbacks[queue] = _callback"),
        (virtual.Channel.basic_consume, "self._active_queues.append(queue)"),
        (virtual.QoS.__init__, "self._quick_ack = self._dirty.add"),
    ],
)
def test_the_line_that_is_relied_on_stands_where_it_was_read(what, says):
    assert " ".join(says.split()) in " ".join(source(what).split()), READ_AGAIN


def test_basic_consume_takes_queue_no_ack_and_callback_in_this_order():
    parameters = list(inspect.signature(redis.Channel.basic_consume).parameters)
    assert parameters[:2] == ["self", "queue"], READ_AGAIN
    assert list(inspect.signature(virtual.Channel.basic_consume).parameters)[1:4] == ["queue", "no_ack", "callback"]


@pytest.mark.parametrize(
    "name",
    ["unacked_key", "unacked_index_key", "_q_for_pri", "_get_message_priority", "conn_or_acquire", "global_keyprefix"],
)
def test_the_redis_channel_has_what_the_hand_back_needs(name):
    assert hasattr(redis.Channel, name), READ_AGAIN


@pytest.mark.parametrize("name", ["requests", "reserved_requests", "active_requests"])
def test_the_worker_s_state_is_kept_where_it_was(name):
    assert hasattr(state, name), READ_AGAIN


def test_a_semaphore_keeps_its_waiters_as_callback_and_arguments():
    semaphore = LaxBoundedSemaphore(1)
    ran: list[str] = []
    semaphore.acquire(ran.append, "first")
    semaphore.acquire(ran.append, "second")
    assert ran == ["first"]
    assert semaphore.value == 0
    assert list(semaphore._waiting) == [(ran.append, ("second",), {})], READ_AGAIN


def test_a_bucket_keeps_what_waits_in_its_contents():
    bucket = TokenBucket(1)
    bucket.add(("request", 1))
    assert bucket.contents == deque([("request", 1)]), READ_AGAIN


def test_the_timer_shows_its_entries_and_cancels_them():
    timer = Timer()
    other = timer.call_after(60, print, ("not a request",))
    # A request without its message: only its type is looked at.
    waiting = timer.call_after(60, print, (request.Request.__new__(request.Request),))
    assert _eta_entries(timer) == [waiting], READ_AGAIN
    timer.cancel(waiting)
    assert _eta_entries(timer) == []
    assert not other.canceled


def test_the_signals_that_are_relied_on_exist():
    for name in ("worker_process_init", "worker_shutdown"):
        assert hasattr(signals, name), READ_AGAIN


def test_bootsteps_are_included_and_named_as_before():
    assert components.Pool.name == "celery.worker.components.Pool"
    assert tasks.Tasks.name == "celery.worker.consumer.tasks.Tasks"
    assert "include_if" in dir(bootsteps.Step)


class Stranger:
    """A worker as `check_worker` sees one."""

    pool_cls = prefork.TaskPool
    pool_start_method = "fork"
    optimization = None
    use_eventloop = True

    def __init__(self, broker: str = "redis://127.0.0.1:1/0", **options: object) -> None:
        self._conninfo = Celery(
            broker=broker, set_as_current=False, broker_transport_options=options
        ).connection_for_read()


def test_a_worker_of_this_version_s_kind_is_accepted():
    check_worker(Stranger())


@pytest.mark.parametrize(
    ("worker", "field"),
    [
        (Stranger("memory://"), "broker_url"),
        (Stranger("amqp://127.0.0.1:1//"), "broker_url"),
        (Stranger(ack_emulation=False), "broker_transport_options"),
    ],
)
def test_what_cannot_be_held_is_refused_at_start(worker, field):
    """A gate that leaks is worse than none."""
    with pytest.raises(InvalidSetting) as caught:
        check_worker(worker)
    assert caught.value.field == field


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_pools_that_are_not_held_yet_are_refused_at_start(pool):
    from celery.concurrency import get_implementation

    worker = Stranger()
    worker.pool_cls = get_implementation(pool)
    with pytest.raises(InvalidSetting, match="use prefork"):
        check_worker(worker)
