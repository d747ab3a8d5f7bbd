"""Celery, kombu and billiard still are what `workers/celery_inside/` was read from (`relied_on.py` lists it).

A failure here means: read that list again against the new version, before anything else.
"""

from __future__ import annotations

import dis
import inspect
import sys
import threading
from collections import deque
from importlib.metadata import version
from types import SimpleNamespace

import amqp
import billiard.pool
import gevent.pool
import pytest
from celery import Celery, Task, bootsteps, signals
from celery.app import trace
from celery.app.amqp import Queues
from celery.app.task import Context
from celery.bin import worker as bin_worker
from celery.concurrency import asynpool, base, prefork, solo, thread
from celery.concurrency import gevent as green
from celery.contrib.testing import worker as testing_worker
from celery.utils import timer2
from celery.worker import WorkController, components, control, loops, request, state, strategy
from celery.worker.consumer import Consumer, tasks
from kombu import message, messaging
from kombu.asynchronous.hub import Hub
from kombu.asynchronous.semaphore import LaxBoundedSemaphore
from kombu.asynchronous.timer import Timer
from kombu.transport import memory, pyamqp, redis, virtual
from kombu.utils.limits import TokenBucket

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.workers.celery_inside.amqp_hand_back import AmqpWayBack
from sluicegate.workers.celery_inside.choose import sides_of
from sluicegate.workers.celery_inside.redis_debts import Arrival
from sluicegate.workers.celery_inside.redis_hand_back import RedisWayBack
from sluicegate.workers.celery_inside.relied_on import READ_FROM
from sluicegate.workers.celery_inside.requests import queue_told, tell_queue
from sluicegate.workers.celery_inside.starts import _resume_at, has_entered
from sluicegate.workers.celery_inside.waiting import eta_tickets
from sluicegate.workers.cell import Cell

READ_AGAIN = "changed: read workers/celery_inside/relied_on.py again against this version"


def source(what: object) -> str:
    return inspect.getsource(what)  # type: ignore[arg-type]


@pytest.mark.parametrize("package", sorted(READ_FROM))
def test_the_installed_version_is_one_that_was_read(package):
    minor = ".".join(version(package).split(".")[:2])
    assert minor in READ_FROM[package], f"{package} {minor} was never read: do so, then add it"


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (request.Request.__init__, "'properties': properties,"),
        (virtual.Channel._inplace_augment_message, "delivery_tag=self._next_delivery_tag()"),
        # Every start goes through _process_task, looked up at call time where a semaphore guards the pool.
        (WorkController._process_task_sem, "self._quick_acquire(self._process_task, req)"),
        (WorkController._process_task, "req.execute_using_pool(self.pool)"),
        (components.Pool.create, "w.process_task = w._process_task"),
        (components.Pool.create, "w.process_task = w._process_task_sem"),
        (components.Pool.create, "w._quick_release = w.semaphore.release"),
        # A start that was revoked leaves its slot, and the next waiter is run within that call.
        (WorkController._process_task, "except TaskRevokedError: try: self._quick_release()"),
        (LaxBoundedSemaphore.release, "waiter, args, kwargs = self._pop_waiter()"),
        (LaxBoundedSemaphore.release, "waiter(*args, **kwargs)"),
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
        # What takes a task's messages is built by its strategy, before the task consumer is made, and when modules are
        # loaded anew.
        (Task.start_strategy, "instantiate(self.Strategy, self, app, consumer, **kwargs)"),
        (tasks.Tasks.start, '"""Start task consumer.""" c.update_strategies()'),
        (tasks.Tasks.__init__, "c.task_consumer = c.qos = None"),
        (tasks.Tasks.shutdown, "c.task_consumer = None"),
        (WorkController.reload, "self.consumer.update_strategies()"),
        (Consumer.on_unknown_task, "message.reject_log_error"),
        (Task.__call__, "return self.run(*args, **kwargs)"),
        # Steps of the user's own are in the app, and handle messages by consumers of their own.
        (bootsteps.ConsumerStep.start, "self.consumers = self.get_consumers(channel)"),
        # The pool: jobs wait in outbound_buffer; a job is in _cache until its result is there.
        (asynpool.AsynPool.__init__, "self.outbound_buffer = deque()"),
        (billiard.pool.ApplyResult.__init__, "cache[self._job] = self"),
        (billiard.pool.ApplyResult.__init__, "self._accept_callback = accept_callback"),
        (billiard.pool.ApplyResult.discard, "self._cache.pop(self._job, None)"),
        (billiard.pool.ApplyResult._ack, "self._worker_pid = pid"),
        (billiard.pool.ApplyResult._ack, "self._accepted = True"),
        (billiard.pool.Pool._create_worker_process, "w.index = i"),
        # Children are ended as by a shrink, and as many are forked as `_processes` says.
        (billiard.pool.Pool.shrink, "self._processes -= 1"),
        (billiard.pool.Pool.shrink, "worker.terminate_controlled()"),
        (billiard.pool.Pool._repopulate_pool, "for i in range(self._processes - len(self._pool)):"),
        (billiard.pool.Pool._maintain_pool, "joined = self._join_exited_workers() self._repopulate_pool(joined)"),
        (billiard.pool.Pool.maintain_pool, "self._maintain_pool()"),
        (state.task_accepted, "all_total_count[0] += 1"),
        (request.create_request_cls, "accept_callback=self.on_accepted"),
        (request.create_request_cls, "correlation_id=task_id"),
        (request.Request.acknowledge, "if not self.acknowledged:"),
        # A run that raised Ignore is acknowledged by on_failure, which the class made for each task inherits.
        (strategy.default, "Request = symbol_by_name(task.Request)"),
        (request.create_request_cls, "return self.on_failure(retval, return_ok=True)"),
        (request.Request.on_failure, "task_ready(self) exc = exc_info.exception"),
        (request.Request.on_failure, "elif isinstance(exc, Ignore): return self.acknowledge()"),
        # How a run ended that did not end well: these are looked up on the request, and announce what came of it.
        (request.create_request_cls, "error_callback=self.on_failure,"),
        (request.create_request_cls, "timeout_callback=self.on_timeout,"),
        (request.Request.on_failure, "elif isinstance(exc, Retry): return self.on_retry(exc_info)"),
        (request.Request.on_retry, "self.send_event('task-retried',"),
        (request.Request.reject, "self.send_event('task-rejected', requeue=requeue)"),
        (request.Request._announce_revoked, "self.send_event('task-revoked',"),
        (request.Request._announce_cancelled, "self.send_event('task-cancelled')"),
        (request.Request.on_failure, "is_worker_lost = isinstance(exc, WorkerLostError)"),
        (billiard.pool.TimeoutHandler.on_hard_timeout, "job._set(job._job, (False, ExceptionInfo()))"),
        # What a deadline ends is terminated as by a revoke, or let go of as Celery does on a lost connection.
        (request.Request.terminate, "pool.terminate_job(self.worker_pid, signal)"),
        (request.Request.cancel, "obj = self._apply_result() # is a weakref if obj is not None: obj.terminate(signal)"),
        (request.Request.on_failure, "if not self._already_cancelled and not self._already_revoked:"),
        (billiard.pool.Pool.terminate_job, "proc._job_terminated = True"),
        (billiard.pool.ApplyResult.terminate, "self._terminated = signum"),
        # What a BRPOP that is out brings is read, and delivered to the queue's callback.
        (redis.Channel._brpop_read, "self.connection._deliver(loads(bytes_to_str(item)), dest)"),
        (redis.Channel._brpop_start, "self._in_poll = self.client.connection"),
        # A worker that stops is told apart from a connection that is lost.
        (bootsteps.Blueprint.stop, "self.state = CLOSE self.restart("),
        (trace.build_tracer, "else task.run"),
        (trace.build_tracer, "except Ignore as exc: I, R = Info(IGNORED, exc), ExceptionInfo(internal=True)"),
        (request.Request.reject, "if not self.acknowledged:"),
        (asynpool.AsynPool.flush, "job.discard()"),
        (Consumer.on_close, "self.pool.flush()"),
        (prefork.TaskPool.on_start, "self.flush = getattr(P, 'flush', None)"),
        (prefork.process_initializer, "task.__trace__ = build_tracer("),
        (prefork.process_initializer, "signals.worker_process_init.send("),
        # Pools within the process: the accept callback comes first, in the thread or greenlet that runs the task.
        (base.apply_target, "if accept_callback: accept_callback(pid or getpid(), monotonic()) try: ret = target("),
        (base.BasePool.apply_async, "return self.on_apply(target, args, kwargs,"),
        (
            thread.TaskPool.on_apply,
            "f = self.executor.submit(apply_target, target, args, kwargs, callback, accept_callback)",
        ),
        (thread.ApplyResult.__init__, "self.f = future"),
        (solo.TaskPool.__init__, "self.on_apply = apply_target"),
        (green.TaskPool.on_start, "self._quick_put = self._pool.spawn"),
        (
            green.TaskPool.on_apply,
            "_quick_put(apply_timeout if timeout else apply_target, target, args, kwargs, callback, accept_callback,",
        ),
        (green.Timer._enter, "g = self._Greenlet.spawn_later(secs, entry)"),
        (green.Timer._enter, "g.entry = entry"),
        (gevent.pool.Pool.spawn, "greenlet = self.greenlet_class(*args, **kwargs) self.start(greenlet)"),
        (loops.synloop, "connection.drain_events(timeout=2.0)"),
        (loops.synloop, "except socket.timeout: pass"),
        # What is seen last before the task's own code, and what a child calls.
        (trace.build_tracer, "task_before_start(uuid, args, kwargs) R = retval = fun(*args, **kwargs)"),
        (Task.before_start, "None: The return value of this handler is ignored."),
        (trace.build_tracer, "if task_has_custom(task, 'before_start'): task_before_start = task.before_start"),
        (trace.fast_trace_task, "tasks[task].__trace__("),
        (trace.build_tracer, "postrun_receivers = signals.task_postrun.receivers"),
        (trace.build_tracer, "if postrun_receivers: send_postrun("),
        # All who build tracers: a child that is born, a connection's consumer, by import, and the rest by its name.
        (prefork.process_initializer, "from celery.app.trace import build_tracer"),
        (sys.modules[Consumer.__module__], "from celery.app.trace import build_tracer"),
        (Consumer.update_strategies, "task.__trace__ = build_tracer(name, task, loader, self.hostname, app=self.app)"),
        (trace.trace_task, "task.__trace__ = build_tracer(task.name, task, **opts)"),
        (Task.apply, "tracer = build_tracer( task.name, task, eager=True,"),
        # Whose child one is.
        (components.Pool.create, "initargs=(w.app, w.hostname)"),
        (billiard.pool.Worker.__init__, "self.initargs = initargs"),
        (billiard.pool.Pool.WorkerProcess, "self.Process(target=worker)"),
        # Redis: the message is in the unacked hash and its tag in the index; the callback is found by queue name.
        (redis.QoS.append, "hset(self.unacked_key, delivery_tag"),
        (redis.QoS.append, "zadd(self.unacked_index_key"),
        (redis.QoS.append, "dumps([message._raw, EX, RK])"),
        (redis.Channel._put, "self._q_for_pri(queue, pri)"),
        (redis.Channel._put, "client.lpush("),
        (virtual.Transport._deliver, "self._callbacks[queue]"),
        (virtual.Channel.basic_consume, "self.connection._callbacks[queue] = _callback"),
        (virtual.Channel.basic_consume, "self._active_queues.append(queue)"),
        (virtual.Channel.basic_consume, "if not no_ack: self.qos.append(message, message.delivery_tag)"),
        # Broadcasts on Redis: a queue that is cancelled is unsubscribed from, and kombu subscribes once.
        (redis.Channel._queue_bind, "self._fanout_queues[queue] = ("),
        (redis.Channel._basic_cancel, "self._unsubscribe_from(queue)"),
        (redis.MultiChannelPoller._register_LISTEN, "if not channel._in_listen: channel._subscribe()"),
        (redis.Channel, "message, self._fanout_to_queue[exchange])"),
        (virtual.QoS.__init__, "self._quick_ack = self._dirty.add"),
        # AMQP: a consumer's callback is found by its tag until the broker has confirmed its cancel.
        (amqp.Channel._on_basic_deliver, "fun = self.callbacks[consumer_tag]"),
        (amqp.Channel._on_basic_cancel_ok, "self._remove_tag(consumer_tag)"),
        (amqp.Channel._remove_tag, "self.callbacks.pop(consumer_tag, None)"),
        (amqp.Channel._remove_tag, "self.no_ack_consumers.discard(consumer_tag)"),
        (message.Message.ack, "if consumer_tag in self.channel.no_ack_consumers: return"),
        (amqp.Channel.basic_cancel, "self.no_ack_consumers.discard(consumer_tag)"),
        (amqp.Channel.basic_cancel, "spec.Basic.Cancel, argsig, (consumer_tag, nowait)"),
        (amqp.Channel._setup_listeners, "spec.Basic.CancelOk: self._on_basic_cancel_ok"),
        (messaging.Consumer._basic_consume, "tag = self._active_tags.get(queue.name)"),
        (messaging.Consumer._basic_consume, "queue.consume(tag, self._receive_callback,"),
        (messaging.Consumer._receive_callback, "return on_m(message) if on_m else self.receive(decoded, message)"),
        (messaging.Consumer.cancel, "for tag in self._active_tags.values(): cancel(tag) self._active_tags.clear()"),
        (pyamqp.Channel.message_to_python, "return self.Message(raw_message, channel=self)"),
        (pyamqp.Message.__init__, "headers=props.get('application_headers') or {}"),
        (pyamqp.Transport, "driver_name = 'py-amqp'"),
        # What is thrown away unread, and what a purge comes to.
        (Consumer.create_task_handler, "on_unknown_task = self.on_unknown_task on_invalid_task = self.on_invalid_task"),
        (Consumer.create_task_handler, "return self.on_decode_error(message, exc)"),
        (Consumer.create_task_handler, "return on_unknown_task(None, message, exc)"),
        (Consumer.create_task_handler, "return on_invalid_task(payload, message, exc)"),
        (tasks.Tasks.start, "c.connection, on_decode_error=c.on_decode_error,"),
        (loops.asynloop, "on_task_received = obj.create_task_handler()"),
        (loops.synloop, "on_task_received = obj.create_task_handler()"),
        (virtual.Channel.queue_purge, "return self._purge(queue)"),
        (redis.Channel._purge, "pipe.llen(priq).delete(priq)"),
        (redis.Channel._delete, "self.auto_delete_queues.discard(queue)"),
        # What a side is chosen by, the queues that are consumed, and the event loop.
        (WorkController.setup_instance, "self._conninfo = self.app.connection_for_read()"),
        (WorkController.setup_instance, "self.use_eventloop = ("),
        (virtual.Transport.establish_connection, "self._avail_channels.append(self.create_channel(self))"),
        (virtual.Transport.create_channel, "return self._avail_channels.pop()"),
        (virtual.Transport.close_connection, "channel.close()"),
        (WorkController.setup_instance, "self.pool_cls = _concurrency.get_implementation(self.pool_cls)"),
        (WorkController.setup_defaults, "self.optimization = optimization or O"),
        (Queues, "def consume_from(self):"),
        (Hub.reset, "self._create_poller()"),
        # In the process of a test: which worker is one, how it is stopped, and the queues that it consumes.
        (testing_worker._start_worker_thread, "WorkController: Any = TestWorkController"),
        (testing_worker._start_worker_thread, "state.should_terminate = 0 t.join(shutdown_timeout)"),
        (state.maybe_shutdown, "if should_terminate is not None and should_terminate is not False:"),
        (loops.synloop, "state.maybe_shutdown() finally: _loop_cycle()"),
        (bin_worker.worker.callback, "worker = app.Worker("),
        (memory.Channel, "queues = {}"),
        (memory.Channel._put, "self._queue_for(queue).put(message)"),
        (virtual.Message.__init__, "self._raw = payload"),
        (timer2.Timer.__init__, "self.schedule = schedule"),
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
    [
        "unacked_key",
        "unacked_index_key",
        "_q_for_pri",
        "_get_message_priority",
        "conn_or_acquire",
        "global_keyprefix",
        "_in_poll",
        "_brpop_read",
    ],
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


def entered(task: object, *options: tuple[str, object]) -> list[bool]:
    """What `has_entered` says of a thread that runs `task` under Celery's tracer, while it is inside it."""
    app = Celery("stack", set_as_current=False, broker="memory://")
    app.task(name="stack.task", shared=False, **dict(options))(task)  # type: ignore[call-overload]
    behind = app.tasks["stack.task"]
    trace_it = trace.build_tracer("stack.task", behind, app.loader, "w1@h", app=app)
    worker = threading.Thread(target=trace_it, args=("t1", (), {}, {"id": "t1", "delivery_info": {}}))
    worker.start()
    assert inside.wait(10)
    said = [has_entered(sys._current_frames()[worker.ident or 0])]
    go_on.set()
    worker.join()
    app.close()
    return said


inside, go_on = threading.Event(), threading.Event()


@pytest.fixture
def fresh_events() -> None:
    inside.clear()
    go_on.clear()


def wait_inside() -> None:
    inside.set()
    go_on.wait(10)


@pytest.mark.usefixtures("fresh_events")
@pytest.mark.parametrize("options", [(), (("autoretry_for", (ValueError,)),)])
def test_a_stack_shows_that_a_task_s_own_code_has_begun(options):
    assert entered(wait_inside, *options) == [True]


@pytest.mark.usefixtures("fresh_events")
def test_a_stack_that_is_still_in_before_start_shows_no_start():
    def before_start(*_: object) -> None:
        wait_inside()

    def nothing() -> None: ...

    assert entered(nothing, ("before_start", before_start)) == [False]


def test_a_thread_that_is_gone_shows_no_start():
    assert not has_entered(None)


def test_where_a_function_begins_is_found_also_behind_cells_and_in_generators():
    """CPython may change threads at RESUME, which is not always the first instruction."""

    def plain() -> None: ...

    def closes() -> object:
        here = 1
        return lambda: here

    def generates():
        yield 1

    for function in (plain, closes, generates):
        code = function.__code__
        at = _resume_at(code)
        assert at >= 0
        assert code.co_code[at] == dis.opmap["RESUME"]


def test_the_timer_shows_its_entries_and_cancels_them():
    timer = Timer()
    other = timer.call_after(60, print, ("not a request",))
    # A request without its message: only its type is looked at.
    parcel = request.Request.__new__(request.Request)
    waiting = timer.call_after(60, print, (parcel,))
    assert eta_tickets(timer) == [(waiting, parcel)], READ_AGAIN
    timer.cancel(waiting)
    assert eta_tickets(timer) == []
    assert not other.canceled


def test_the_timer_of_a_worker_without_an_event_loop_shows_its_entries_too():
    timer = timer2.Timer(schedule=Timer())
    parcel = request.Request.__new__(request.Request)
    waiting = timer.schedule.call_after(60, print, (parcel,))
    assert eta_tickets(timer) == [(waiting, parcel)], READ_AGAIN
    timer.cancel(waiting)
    assert eta_tickets(timer) == []


def test_the_signals_that_are_relied_on_exist():
    for name in ("worker_process_init", "worker_shutdown"):
        assert hasattr(signals, name), READ_AGAIN


@pytest.mark.parametrize(
    ("of", "name"), [(Hub, "add_reader"), (Hub, "call_later"), (control, "inspect_command"), (state, "requests")]
)
def test_what_is_called_by_name_is_there(of, name):
    assert callable(getattr(of, name)) or isinstance(getattr(of, name), dict), READ_AGAIN


def test_bootsteps_are_included_and_named_as_before():
    assert components.Pool.name == "celery.worker.components.Pool"
    assert tasks.Tasks.name == "celery.worker.consumer.tasks.Tasks"
    assert "include_if" in dir(bootsteps.Step)


class Stranger:
    """A worker as `sides_of` sees one."""

    pool_cls: type = prefork.TaskPool
    pool_start_method = "fork"
    optimization = None
    use_eventloop = True

    def __init__(self, broker: str = "redis://127.0.0.1:1/0", **options: object) -> None:
        self._conninfo = Celery(
            broker=broker, set_as_current=False, broker_transport_options=options
        ).connection_for_read()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_each_pool_that_is_held_has_its_side(pool):
    from celery.concurrency import get_implementation

    worker = Stranger()
    worker.pool_cls = get_implementation(pool)
    # What Celery decides once gevent has patched the process.
    worker.use_eventloop = pool != "gevent"
    sides = sides_of(worker, Cell())
    sides.loop.close()
    assert sides.pool.name == pool


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:1//", "pyamqp://127.0.0.1:1//", "amqps://127.0.0.1:1//"])
def test_each_broker_that_is_held_has_its_side(url):
    sides = sides_of(Stranger(url), Cell())
    sides.loop.close()
    assert isinstance(sides.way_back, AmqpWayBack)


def test_a_broker_that_sentinels_watch_is_held_as_a_redis_is():
    """Its channel is a Redis channel, whose connections go to whatever master they name."""
    sides = sides_of(Stranger("sentinel://127.0.0.1:1/0;sentinel://127.0.0.1:2/0", master_name="m"), Cell())
    sides.loop.close()
    assert isinstance(sides.way_back, RedisWayBack)
    assert issubclass(redis.SentinelChannel, redis.Channel)
    assert "sentinel_inst.master_for(" in source(redis.SentinelChannel._sentinel_managed_pool)


@pytest.mark.parametrize(
    ("worker", "field"),
    [
        (Stranger("memory://"), "broker_url"),
        (Stranger("filesystem://"), "broker_url"),
        (Stranger(ack_emulation=False), "broker_transport_options"),
        (Stranger("sentinel://127.0.0.1:1/0"), "broker_transport_options"),
    ],
)
def test_what_cannot_be_held_is_refused_at_start(worker, field):
    """A gate that leaks is worse than none."""
    with pytest.raises(InvalidSetting) as caught:
        sides_of(worker, Cell())
    assert caught.value.field == field


def test_a_pool_that_is_not_held_is_refused_at_start():
    worker = Stranger()
    worker.pool_cls = base.BasePool
    with pytest.raises(InvalidSetting, match="use prefork, threads, solo or gevent"):
        sides_of(worker, Cell())


@pytest.mark.parametrize("held", [prefork.TaskPool, thread.TaskPool, solo.TaskPool, green.TaskPool])
def test_a_pool_that_inherits_from_one_that_is_held_is_another_pool(held):
    """It may start tasks in a way of its own, as one on asyncio does, and a gate that leaks is worse than none."""
    worker = Stranger()
    worker.pool_cls = type("AsyncPool", (held,), {"__module__": "shop.pools"})
    with pytest.raises(InvalidSetting, match=r"shop\.pools\.AsyncPool is not supported: use prefork, threads"):
        sides_of(worker, Cell())


@pytest.mark.parametrize("exchange", ["", "reports"])
@pytest.mark.parametrize("forged", [{}, {"sluicegate_queue": "other"}])
def test_a_task_knows_its_queue_and_is_told_only_where_its_message_does_not_say_it(exchange, forged):
    where = {"exchange": exchange, "routing_key": "q1" if not exchange else "daily"}
    message = SimpleNamespace(delivery_info=where, sluicegate_arrival=Arrival("q1", 0, 0.0))
    request = SimpleNamespace(message=message, request_dict={"delivery_info": where, **forged})
    tell_queue(request)
    assert ("sluicegate_queue" in request.request_dict) is bool(exchange or forged)
    assert queue_told(Context(request.request_dict)) == "q1"


def test_a_task_whose_queue_nobody_knows_has_none():
    assert queue_told(Context({"delivery_info": None})) is None
    assert queue_told(Context({"delivery_info": {"exchange": "reports", "routing_key": "daily"}})) is None


def test_celery_s_own_before_start_does_nothing_that_would_be_missed():
    def nothing(self, task_id, args, kwargs):
        """It has a docstring, too."""

    assert Task.before_start.__code__.co_code == nothing.__code__.co_code
