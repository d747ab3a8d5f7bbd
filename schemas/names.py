"""Redis names and nodenames that the control plane and the workers must agree on."""

from __future__ import annotations

import re

from sluicegate.schemas.errors import InvalidInput

DEFAULT_NAMESPACE = "default"
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def check_namespace(name: object, field: str = "SLUICEGATE_NAMESPACE") -> str:
    """`name` if it may be a namespace (letters, digits, `_.-`, at most 63); raises InvalidInput otherwise."""
    if not isinstance(name, str) or not _NAMESPACE.match(name):
        raise InvalidInput(field, f"{name!r} is not a namespace: use letters, digits, '_', '.', '-', at most 63")
    return name


def snapshot_key(namespace: str) -> str:
    """The string key that holds the signed envelope."""
    return f"sluicegate:{namespace}:snapshot"


def hint_channel(namespace: str) -> str:
    """The pub/sub channel of hints; a message there only ever means "read the snapshot again"."""
    return f"sluicegate:{namespace}:hint"


def beat_key(namespace: str, nodename: str) -> str:
    """The string key of a worker's last heartbeat (JSON, see `schemas.beats`)."""
    return f"sluicegate:{namespace}:beat:{nodename}"


def lives_key(namespace: str, nodename: str) -> str:
    """The string key of what several lives of one nodename said last (JSON, see `schemas.lives`); mostly absent.

    Below the name of `beat_key`, so that an access rule made for that covers it. No host has a slash in its name.
    """
    return f"{beat_key(namespace, nodename)}/lives"


def resources_key(namespace: str, nodename: str) -> str:
    """The string key of what a worker's probe read when it last said it whole (JSON, see `schemas.health.resources`).

    Below the name of `beat_key`, as `lives_key`: heartbeats stay small, and say which of these readings hold.
    """
    return f"{beat_key(namespace, nodename)}/resources"


def asks_key(namespace: str) -> str:
    """The string key of the nonces of workers that start (`schemas.boot_asks`); absent while none does.

    Below the name of `beat_key`, for the same reason as `lives_key`.
    """
    return beat_key(namespace, "/asks")


def beats_key(namespace: str) -> str:
    """The sorted set of nodenames by the Redis server's time of their last heartbeat (seconds)."""
    return f"sluicegate:{namespace}:beats"


def cursor_key(namespace: str, task_id: str) -> str:
    """The string key of the cursor (JSON) with which a task stopped at a checkpoint."""
    # Whoever sends a task chooses its id: it may have lone surrogates, which a key has no place for.
    spelled = task_id if task_id.isascii() else task_id.encode("utf-8", "backslashreplace").decode()
    return f"sluicegate:{namespace}:cursor:{spelled}"


def costs_key(namespace: str) -> str:
    """The stream of what tasks have cost: entries of one field `cost` (JSON, see `workers.costs`)."""
    return f"sluicegate:{namespace}:costs"


def sealed_cursor_key(namespace: str, task_id: str) -> str:
    """The string key of the same cursor with the seal of a worker that has keys (`workers.cursor_seals`).

    Below the name of `cursor_key`, so that an access rule made for that covers it.
    """
    return f"{cursor_key(namespace, task_id)}:sealed"


def host_of(nodename: str) -> str:
    """The host part of a Celery nodename: what follows its last `@`."""
    return nodename.rpartition("@")[2]
