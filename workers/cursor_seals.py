"""Which cursors are believed: sealed ones, bound to their namespace, their task and its message. Pure.

Whoever has a worker's credential can write any key of a cursor. So a worker that was given keys
(`SLUICEGATE_CURSOR_KEYS`) seals each cursor that it stores with the first of them, and goes on from none that no key of
its own has sealed. The MAC is HMAC-SHA-256 (RFC 2104) over the cursor and what it belongs to.

On the wire: a line of JSON `{"v":1,"tag":…,"retries":…,"mac":…}`, a newline, and the cursor's own JSON.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sluicegate.schemas.settings import CursorKeys

PROTOCOL = 1
MAX_HEAD_BYTES = 1024
"""Of the line before the cursor; ours has some 150."""
MAX_TAG_CHARS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What a run is a run of: the name of its task, and its message.

    `tag`: what the broker calls the message, where that is the same for all its life (Redis); None elsewhere.
    `retries`: how often the task had asked to be run again when it was sent. `is_redelivered`: this very message has
    been given out before.
    """

    task: str = ""
    tag: str | None = None
    retries: int = 0
    is_redelivered: bool = False


UNTOLD = Origin()


class Unsealed(Exception):
    """A cursor is not believed; says why, and nothing of what stands there."""


def seal(keys: CursorKeys, namespace: str, task_id: str, origin: Origin, cursor: bytes) -> bytes:
    """`cursor`, sealed by the first key for the run that `origin` tells of."""
    mac = _mac(keys.secrets[0], namespace, task_id, origin.task, origin.tag, origin.retries, cursor)
    head = {"v": PROTOCOL, "tag": origin.tag, "retries": origin.retries, "mac": mac}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + cursor


def unseal(keys: CursorKeys, namespace: str, task_id: str, origin: Origin, sealed: bytes) -> bytes:
    """The cursor in `sealed`, where one of `keys` sealed it for this message or for one that this is a retry of.

    Raises Unsealed.
    """
    head, cursor = split(sealed)
    tag, retries, mac = head.get("tag"), head.get("retries"), head.get("mac")
    if not (tag is None or isinstance(tag, str)) or type(retries) is not int or not isinstance(mac, str):
        raise Unsealed("it is not sealed as ours are")
    made = (_mac(one, namespace, task_id, origin.task, tag, retries, cursor) for one in keys.secrets)
    # In constant time: how long it takes tells nothing of any seal.
    if not any(hmac.compare_digest(one.encode(), mac.encode("utf-8", "replace")) for one in made):
        raise Unsealed("no key of ours sealed it for this task")
    # Another message of the same id begins anew; a retry is another message too, and goes on.
    if tag != origin.tag and not retries < origin.retries:
        raise Unsealed("it was sealed for another message with this id")
    return cursor


def split(sealed: bytes) -> tuple[dict[str, Any], bytes]:
    """What stands before the cursor, and the cursor. Raises Unsealed."""
    line, newline, cursor = sealed.partition(b"\n")
    try:
        head = json.loads(line) if newline and len(line) <= MAX_HEAD_BYTES else None
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("v") != PROTOCOL:
        raise Unsealed("it is not sealed as ours are")
    return head, cursor


def _mac(secret: bytes, namespace: str, task_id: str, task: str, tag: str | None, retries: int, cursor: bytes) -> str:
    # As JSON, so that no two lists of these read alike; the cursor comes last, behind a newline that JSON has not.
    bound = json.dumps(["sluicegate cursor", PROTOCOL, namespace, task_id, task, tag, retries])
    return hmac.new(secret, bound.encode() + b"\n" + cursor, sha256).hexdigest()
