"""What is put on other people's objects, or in the place of what they have: all of it. A test holds this complete.

Celery calls objects of its own from end to end, and offers no place for what must travel with them. So some facts
travel as attributes of those objects, and some methods are stood before. Whoever looks at such an object sees the names
below; nothing else of it is changed. `relied_on` lists what is only read.
"""

from __future__ import annotations

ARRIVAL = "sluicegate_arrival"
QUEUE = "sluicegate_queue"
REQUEST = "sluicegate_request"
NOTED = "sluicegate_noted"
MEMBER = "sluicegate"
UNREAD = "sluicegate_unread"
PURGES = "sluicegate_purges"

ADDED = {
    ARRIVAL: "a kombu message: the queue it came from, its number there, and when (redis_debts.Arrival)",
    QUEUE: "a request's dict, where its message does not say its queue: the queue, which travels to the pool child",
    REQUEST: "an accept callback of a pool in this process: its request, which gevent's spawn is not told",
    NOTED: "what stands for `before_start`, `build_tracer`, a batch task's `run`: True, it is ours (starts, batches)",
    MEMBER: "a WorkController: the Member of this process (steps, commands)",
    UNREAD: "a worker's consumer: True, what it would throw away unread comes to the gate already",
    PURGES: "kombu's Redis channel: True, its purge takes what is set aside already",
}
"""Attributes and keys of our own: name, and whose it is and what for."""

REPLACED = {
    "_process_task": "WorkController: each start asks the gate first (prefork, in_process)",
    "process_task": "WorkController: the same, where Celery bound it before",
    "_quick_release": "WorkController: the slot of a revoked start is passed on after that start (prefork)",
    "on_apply": "TaskPool of this process: each hand-over is a job that is checked again where it starts (in_process)",
    "_quick_put": "gevent's TaskPool: a full pool is not waited for while the gate is closed (in_process)",
    "on_unknown_task": "a worker's consumer: a held task that it does not know is not thrown away (unread)",
    "on_invalid_task": "the same, of one whose content it does not accept",
    "on_decode_error": "the same, of one that it cannot decode; its task consumer's too",
    "_purge": "kombu's Redis channel: what is set aside of a queue is purged with it (purges)",
    "_delete": "the same, where a queue is deleted",
    "_processes": "billiard's pool: how many children it has, none while the worker lets go of its GPU (retiring)",
    "flush": "prefork's TaskPool: remembers the jobs that Celery forgets; a batch task: asks first (prefork, batches)",
    "update_strategies": "a worker's Consumer: tasks that were registered late are looked at first (consumer)",
    "consume": "a connection's task consumer: nothing is consumed while the gate is closed (consumer)",
    "basic_consume": "a connection's channel: each message is told its queue (redis_, amqp_, memory_hand_back)",
    "message_to_python": "an AMQP channel: the same",
    "callbacks": "an AMQP channel: what comes after a pause is caught (amqp_hand_back)",
    "_active_tags": "an AMQP or Redis task consumer: the tag of a queue that is cancelled alone is dropped",
    "delivery_info": "an AMQP message that needs no acknowledgement: a consumer tag that outlives its consumer",
    "_callbacks": "kombu's virtual transport: what comes after a pause is caught (redis_hand_back, redis_broadcasts)",
    "can_consume": "a Redis channel's QoS, during a pause: the reply that is under way is read (redis_hand_back)",
    "drain_events": "a gevent worker's connection, or a test's: `tend` is called between two of them (loops, in_trial)",
    "run": "a task with `on_quiesce`: its end drops or keeps the cursor; a batch task: noted (yields, batches)",
    "Request": "every task: a run that did not end well is told of (ends), one that yielded ends otherwise (yields)",
    "send_event": "a request that does not end well, while Celery lets go of it: what it announces is heard (ends)",
    "Strategy": "a task of celery-batches: it takes a pool that knows what it is given (batches)",
    "_pool": "the same: that pool",
    "_count": "the same: how far the next batch is from full, where its messages were handed back",
    "build_tracer": "celery.app.trace, and the consumer's module: what it builds notes the start (starts)",
    "before_start": "a task and its class, while its tracer is built: it calls the one that was there (starts)",
    "__trace__": "a task, in a pool child: its end is noted (children)",
    "acknowledged": "a request whose message is ours now: True (both ways back)",
    "_state": "its message: REQUEUED, so that kombu leaves it alone (both ways back)",
    "_already_cancelled": "a request that a deadline requeues: True, so that Celery lets go of it (prefork)",
    "value": "prefork's semaphore: the slot of a start that did not happen (prefork)",
    "tb": "what a tracer tells of a run that yielded: None, it would not fit into one piece (children)",
}
"""Attributes that are theirs, and that are set: name, and whose it is and what for."""

MODULE_GLOBALS = {
    "_station": "workers.checkpoints: what this process offers its tasks; set once, and children have it by fork",
    "_flags": "workers.checkpoints: the cell's byte, for the same",
    "_note": "workers.celery_inside.starts: who is told of starts; a pool child has its own",
    "_own_starts": "workers.own_starts: what `starting` asks in this process; set once",
    "_describe": "workers.log: what each line of this process carries",
    "_purse": "workers.costs: where `report_cost` of this process puts what a task cost; children have it by fork",
}
"""Our own module globals that are set after import. One process is one worker."""
