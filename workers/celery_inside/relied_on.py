"""What sluicegate relies on in the insides of Celery, kombu, billiard, py-amqp and gevent, and where it was read.

Read from Celery 5.5.3 and 5.7.0, kombu 5.5.4 and 5.7.0, py-amqp 5.4.2, billiard 4.3.2, gevent 24.10.1 and 26.9.0.
`tests/unit/test_celery_inside.py` asserts each name and each shape used here, so that a new version that changes
one fails loudly. `marks` lists what of it is replaced, and what is put there.

What is relied on, by the module that does (in brackets)     where it stands

[prefork, in_process]
- `WorkController._process_task`, looked up at call time      celery/worker/worker.py
- `WorkController.process_task`, bound when the pool is made  celery/worker/components.py (Pool.create)
[batches]
- celery-batches, where an app has it: `Batches.Strategy` takes the pool as `_pool`; `_do_flush` takes what is due from
  `_buffer` and `_pending` and calls `flush`, which calls `_pool.apply_async(apply_batches_task, (task, (told,), …))`;
  `_count` says how far the next batch is from full         celery_batches/__init__.py (0.11)
- `apply_batches_task` calls the task, which calls `run`     celery_batches/trace.py, celery/app/task.py (Task.__call__)
- `Task.start_strategy` calls what `Strategy` names with the task, the app and the consumer   celery/app/task.py
[self_check]
- the same, and what is Celery's own: `strategy.default`, `trace.build_tracer`, `Request.on_accepted`, `.acknowledge`,
  `.reject`, `bootsteps.ConsumerStep`   celery/worker/strategy.py, celery/app/trace.py, celery/worker/request.py
- `app.steps["consumer"]`: the steps that were added, and no other   celery/app/base.py
[prefork]
- `LaxBoundedSemaphore._waiting`, `.value`; `release` calls the next waiter     kombu/asynchronous/semaphore.py
- `WorkController._quick_release`, called by `_process_task` alone, of what was revoked   celery/worker/worker.py
- `AsynPool.outbound_buffer`, `._cache`, `._pool[].index`     celery/concurrency/asynpool.py, billiard/pool.py
- `ApplyResult._accepted`, `._accept_callback`, `._worker_pid`, `._write_to`  billiard/pool.py
- `TaskPool.flush`, called when the broker drops, forgets jobs in a child's pipe   celery/concurrency/asynpool.py
- `Request.terminate`, and of one that is handed back: `_already_cancelled`, `_apply_result`, `worker_pid`;
  `TaskPool.terminate_job`, `ApplyResult.terminate`          celery/worker/request.py, billiard/pool.py
[retiring]
- `Pool._processes`, by which `maintain_pool` forks what is missing, and joins what has ended; a child's
  `terminate_controlled` is how `Pool.shrink` ends one   billiard/pool.py, billiard/process.py
[in_process]
- `TaskPool.on_apply`: `accept_callback` is called first in the thread or greenlet that runs the task, and it is where
  an early acknowledgement happens   celery/concurrency/base.py (apply_target), thread.py, solo.py, gevent.py
- what `on_apply` returns: `ApplyResult.f`, a future (threads), or a greenlet (gevent)  celery/concurrency/thread.py
- gevent's `TaskPool._quick_put` spawns and blocks while the pool is full   celery/concurrency/gevent.py
[starts]
- `build_tracer` makes every tracer: looked up at call time in pool children and by `trace_task`, and by import in the
  consumer's module, which builds all of them for each connection; `eager` is given by name
                                  celery/app/trace.py, concurrency/prefork.py, worker/consumer/consumer.py, app/task.py
- `before_start` comes last before the task's code; it is asked for when a tracer is built: `task_has_custom`, and then
  the task itself                                            celery/app/trace.py
- what it makes is `build_tracer.<locals>.trace_task` of this module, whoever wraps it   celery/app/trace.py
[children]
- a tracer's `(outcome, info, runtime, text)`: of one that raised Ignore `outcome` is a billiard `ExceptionInfo`, whose
  `.tb` holds the frames, and `info.retval` the exception     celery/app/trace.py, billiard/einfo.py
- `worker_process_init` is sent in a child after its tracers were built; `current_process().index`, by which its parent
  knows it, and `._target.initargs`: the app and the name of its worker
                     celery/concurrency/prefork.py (process_initializer), worker/components.py, billiard/pool.py
[yields]
- `Task.Request`, the class or name that `create_request_cls` derives from; `Request.on_failure` is told how a run
  ended, and lets one that raised Ignore be acknowledged   celery/worker/strategy.py, celery/worker/request.py
- `Task.run` is looked up when a tracer is built           celery/app/trace.py
- `task_postrun.receivers` is one list, which a tracer looks at when a run ends   celery/app/trace.py, utils/dispatch
[ends]
- `Task.Request`, as above; `Request.on_failure`, `.on_timeout`, `.terminate` and `.cancel` hear of every run that does
  not end well, and announce by `send_event` what they make of it: `task-retried`, `task-rejected` with `requeue`,
  `task-revoked`, `task-cancelled`, and `task-succeeded` of a child that was lost after its task had succeeded
                                                            celery/worker/request.py, billiard/pool.py
- what a run raised, in an `ExceptionWithTraceback` where it came from a child   billiard/einfo.py
[requests]
- `state.requests`, `.reserved_requests`, `.active_requests`, `.scheduled_requests` (5.7)   celery/worker/state.py
- `state.all_total_count[0]`, one more with each task that the pool accepts   celery/worker/state.py
- a task's `request` has what its message's headers had, and `delivery_info`   celery/app/task.py (Context)
- its `properties` are the message's; on a virtual transport `delivery_tag` is among them, made when it is sent, and a
  message that goes back to its queue keeps it   celery/worker/request.py, kombu/transport/virtual/base.py
[waiting]
- `Consumer.task_buckets`, `TokenBucket.contents`             celery/worker/consumer/consumer.py, kombu/utils/limits.py
- ETA entries on the timer with the request as first argument celery/worker/strategy.py (call_at), kombu/.../timer.py
- a timer's `schedule`: itself, or what its thread wraps; `._queue` is there  kombu/.../timer.py, celery/utils/timer2.py
- the queue of gevent's timer holds greenlets                 celery/concurrency/gevent.py (Timer)
[books]
- `WorkController.process_task`, `.concurrency`, `.app.amqp.queues.consume_from`   celery/worker/worker.py, app/amqp.py
[consumer]
- `task_consumer.consume`, made in `Tasks.start` but first called by the event loop   celery/worker/loops.py
- `WorkController.blueprint.state` is no longer RUN before the consumer's steps are stopped for good, and the broker
  connection stays until the pool has stopped              celery/bootsteps.py (Blueprint.stop), celery/worker/worker.py
- `Consumer.update_strategies`, called in `Tasks.start` while `task_consumer` is None, and by `WorkController.reload`,
  builds what takes each task's messages: a task without takes none   celery/worker/consumer/consumer.py, tasks.py
[loops]
- `synloop` calls `connection.drain_events(timeout=2.0)` on the consumer's connection   celery/worker/loops.py
- `hub.add_reader`, `hub.call_later`, and that a reset forgets readers   kombu/asynchronous/hub.py
[commands]
- `inspect_command` makes a function one that every worker of the process answers to   celery/worker/control.py
[choose]
- `WorkController._conninfo`, `.pool_cls`, `.use_eventloop`, `.optimization`   celery/worker/worker.py
- a virtual `Transport.establish_connection` makes one attempt, `create_channel` hands its channel on, and
  `close_connection` closes it   kombu/transport/virtual/base.py; `Channel.client` is redis-py's   …/redis.py
- `SentinelChannel` is a Redis channel, whose pools ask the sentinels at each new connection   kombu/transport/redis.py
[redis_hand_back]
- the Redis channel: `unacked_key`, `unacked_index_key`, `qos._quick_ack`, `qos.can_consume`, `_q_for_pri`,
  `_get_message_priority`, `conn_or_acquire`, `_in_poll`, `_brpop_read`, `_fanout_queues`, `global_keyprefix`
                                                            kombu/transport/redis.py
- `Transport._callbacks`, kombu's queue name -> callback      kombu/transport/virtual/base.py
- `QoS.append` is not called for a queue without acknowledgements   kombu/transport/virtual/base.py
- `Consumer._active_tags`, `._active_queue_no_ack` (5.7)     kombu/messaging.py
[redis_broadcasts]
- `Channel._fanout_queues`, filled when a queue is declared; a cancelled one is unsubscribed from, and `_subscribe` is
  called for a channel that does not listen yet, and no other   kombu/transport/redis.py
- `Transport._callbacks`                                     kombu/transport/virtual/base.py
- `Consumer._basic_consume`, `._active_tags`, `._queues`     kombu/messaging.py
[amqp_hand_back]
- the AMQP channel: `callbacks` by consumer tag until the broker's cancel-ok, `no_ack_consumers` the same, and kombu's
  messages ask by their `delivery_info` whether their consumer is among these; `send_method`,
  `message_to_python`, `connection.server_properties`         amqp/channel.py, kombu/transport/pyamqp.py
- `Consumer._active_tags`, `._active_queue_no_ack` (5.7), `._receive_callback`, `.on_message`   kombu/messaging.py
[unread]
- `Consumer.create_task_handler`, called for each connection once the consumer's steps have started, looks up
  `on_unknown_task(body, message, exc)`, `on_invalid_task(payload, message, exc)` and, when it is called,
  `on_decode_error(message, exc)`: of a message that these are not called for nothing is acknowledged or rejected
                                                            celery/worker/consumer/consumer.py
[purges]
- `Channel._purge(queue)`, which every purge comes to, and `._delete(queue, …)`, `auto_delete_queues`, `_fanout_queues`
                                                            kombu/transport/redis.py, kombu/transport/virtual/base.py
[switched_off]
- `WorkController._conninfo`, `.app.amqp.queues.consume_from`, and a consumer's `timer.call_repeatedly` on every pool
[made_by]
- `TestWorkController`, which every in-process worker of a test is   celery/contrib/testing/worker.py
- `worker`, the click command in whose context `celery worker` and `worker_main` make a worker   celery/bin/worker.py
[in_trial]
- how its test tool stops it: `state.should_terminate`, which `synloop` looks at between two `drain_events`
                                                            celery/contrib/testing/worker.py, celery/worker/loops.py
[memory_hand_back]
- `Channel.queues` in memory: one `queue.Queue` by name for the process; `Message._raw`   kombu/transport/memory.py
"""

from __future__ import annotations

READ_FROM = {
    "celery": ("5.5", "5.6", "5.7"),
    "kombu": ("5.5", "5.6", "5.7"),
    "billiard": ("4.2", "4.3"),
    "gevent": ("24.10", "26.9"),
    "amqp": ("5.4",),
}
"""The minor versions that the above holds for: the fleet tests run on the newest and on Celery 5.5.0 with kombu 5.5.4,
and the test of the names and shapes has also passed on Celery 5.6.2 with kombu 5.6.2 and billiard 4.2.4."""
