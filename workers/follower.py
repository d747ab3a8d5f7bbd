"""The follower: keeps the gate current for the life of the process.

Its own thread and its own connections, with short timeouts, so that neither a blocked event loop nor a silent
partition stops it. A hint on the push channel only means "read the signed state again"; the jittered timer
reads it anyway. Push makes it fast, the poll makes it sure.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from sluicegate.schemas.adapters.redis_client import asks_sentinels, let_go
from sluicegate.schemas.beats import MAX_SHOWN_CHARS
from sluicegate.schemas.errors import SnapshotRefused, StaleSnapshot
from sluicegate.schemas.names import hint_channel, snapshot_key
from sluicegate.schemas.snapshots import Edition, Snapshot, Verify, unseal
from sluicegate.workers.boot_ask import BootAsk
from sluicegate.workers.following import Following, lose_touch, see
from sluicegate.workers.log import logger

log = logger(__name__)

JITTER = 0.2
TURN_S = 0.25
"""How long a poke of a broadcast may go unnoticed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often, and how long. All in seconds."""

    poll_s: float
    republish_s: float
    stale_after_s: float
    is_stale_closed: bool
    needs_fresh_boot: bool
    asks: bool = False
    """Does it open only on a state that answers its nonce?"""

    @property
    def silence_s(self) -> float:
        """A subscription that is silent for longer than this is dead: every republication sends a hint."""
        return max(3 * self.republish_s, 1.0)


class Follower:
    """Reads the signed state and hands newer ones on.

    `on_state` takes each state that comes into force; `on_stale` takes a reason when the stale lease ran out
    under the policy `closed`, and None when touch is regained. Both are called from the follower's thread.
    """

    def __init__(
        self,
        *,
        namespace: str,
        keys: Verify,
        pace: Pace,
        connect: Callable[[], Redis],
        fence: Edition,
        on_state: Callable[[Snapshot], None],
        on_stale: Callable[[str | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.following = Following(fence=fence)
        self._ask = BootAsk(namespace, clock) if pace.asks else None
        self.refused: Counter[str] = Counter()
        self.is_stale = False
        self._namespace = namespace
        self._keys = keys
        self._pace = pace
        self._connect = connect
        self._on_state = on_state
        self._on_stale = on_stale
        self._clock = clock
        self._started_at = clock()
        self._stopping = threading.Event()
        self._poked = threading.Event()
        self._asked_at = clock()
        self._is_away = False
        self._last_refusal = ""
        self._envelope: bytes | None = None
        self._thread = threading.Thread(target=self._run, name="sluicegate-follower", daemon=True)

    def start(self) -> None:
        """Start the thread. Call after the pool has forked."""
        self._started_at = self._clock()
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it is a daemon and holds nothing that must be flushed."""
        self._stopping.set()
        self._poked.set()

    def poke(self) -> None:
        """A broadcast came, the second way of a hint: read again now, from any thread."""
        self._poked.set()

    def _run(self) -> None:
        channel = hint_channel(self._namespace)
        with _Subscription(self._connect, channel, self._pace.silence_s, self._poked.wait) as subscription:
            reader = self._connect()
            while not self._stopping.is_set():
                try:
                    self.look(reader)
                    self._wait(subscription)
                except Exception:
                    # A follower that dies leaves a worker deaf; whatever it was, the next look may succeed.
                    log.exception("sluicegate: reading the state failed")
                    self._stopping.wait(self._pace.poll_s)

    def _wait(self, subscription: _Subscription) -> None:
        """Until a hint of something new, a poke, or the jittered poll."""
        until = time.monotonic() + self._pace.poll_s * random.uniform(1 - JITTER, 1 + JITTER)
        while (left := until - time.monotonic()) > 0 and not self._poked.is_set():
            # Short turns, so that a poke from another thread is seen without waiting for a hint.
            hint = subscription.hears(min(left, TURN_S))
            if hint is not None and not self.knows(hint):
                return
        self._poked.clear()

    def knows(self, hint: bytes) -> bool:
        """Does it speak of the very edition that is in force? The republisher says so every second.

        Then there is no hurry: the poll sees that the publication advances. Nothing is believed: a hint that lies
        about it withholds a push, as one that is not sent does, and the poll reads the state all the same.
        """
        in_force = self.following.in_force
        try:
            said = json.loads(hint)
            return in_force is not None and (said["epoch"], said["version"]) == in_force.edition
        except (ValueError, KeyError, TypeError, RecursionError):
            return False

    def look(self, reader: Redis) -> None:
        """One look at the state: take it if it is newer, and judge whether touch is lost. Never raises for Redis."""
        if self._ask is not None:
            self._ask.tend(reader, self.following.in_force is not None)
        try:
            raw: Any = reader.get(snapshot_key(self._namespace))
        except (RedisError, OSError) as error:
            self._note_away(f"{type(error).__name__}: {error}")
            self.following = lose_touch(self.following)
        else:
            self._note_back()
            if raw is not None:
                self.observe(bytes(raw), self._clock())
            elif self.following.in_force is None:
                self._note_refusal("absent", "there is no state at its key yet")
        self._ask_again(reader, self._clock())
        self._judge_staleness(self._clock())

    def _ask_again(self, reader: Redis, now: float) -> None:
        """A master that was cut off from its sentinels answers on, and nobody writes to it any more."""
        moved_at = max(self._asked_at, self.following.fresh_at or 0.0)
        # Two reads at the new master must have had their time, or no beat would ever be seen to advance.
        patience_s = max(self._pace.silence_s, 3 * self._pace.poll_s)
        if now - moved_at > patience_s and asks_sentinels(reader):
            self._asked_at = now
            self.following = lose_touch(self.following)
            let_go(reader)

    def observe(self, envelope: bytes, now: float) -> None:
        """Take one envelope as read at monotonic time `now`: check, fence, hand on if newer. Never raises."""
        try:
            snapshot = unseal(envelope, self._keys, self._namespace)
            before = self.following.in_force
            self.following = see(
                self.following,
                snapshot,
                now=now,
                needs_fresh_boot=self._pace.needs_fresh_boot,
                nonce=None if self._ask is None else self._ask.nonce,
            )
        except SnapshotRefused as refusal:
            self.refused[refusal.code] += 1
            self._note_refusal(refusal.code, str(refusal))
            return
        if self._ask is not None and self.following.in_force is None and snapshot.answers is None:
            self.refused["unanswered"] += 1
            self._note_refusal(
                "unanswered",
                "the control plane that signed it is older than this worker and does not answer workers that start: "
                "upgrade it, or set SLUICEGATE_BOOT_POLICY=advancing for as long",
            )
            return
        self._last_refusal = ""
        taken = self.following.in_force
        if taken is not None and taken is not before:
            self._envelope = envelope
            self._on_state(taken)

    @property
    def shown(self) -> str | None:
        """The signed envelope in force, while what is published is behind it: proof that the database was restored."""
        envelope = self._envelope if self._last_refusal == StaleSnapshot.code else None
        return envelope.decode() if envelope is not None and len(envelope) <= MAX_SHOWN_CHARS else None

    def _judge_staleness(self, now: float) -> None:
        pace = self._pace
        is_stale = not self.following.is_fresh(now, pace.stale_after_s) and now - self._started_at >= pace.stale_after_s
        if is_stale == self.is_stale:
            return
        self.is_stale = is_stale
        if not is_stale:
            log.warning("sluicegate: the control plane is heard again")
            self._on_stale(None)
        elif pace.is_stale_closed:
            log.error("sluicegate: no fresh state for %g s: closed (stale policy)", pace.stale_after_s)
            self._on_stale("no fresh state within the stale lease")
        else:
            log.error("sluicegate: no fresh state for %g s: going on as last ordered", pace.stale_after_s)

    def _note_away(self, why: str) -> None:
        if not self._is_away:
            self._is_away = True
            log.error("sluicegate: the state cannot be read (%s): keeping the last one", why)

    def _note_back(self) -> None:
        if self._is_away:
            self._is_away = False
            log.warning("sluicegate: the state can be read again")

    def _note_refusal(self, code: str, why: str) -> None:
        """One line per kind of refusal in a row, not one per poll."""
        if code != self._last_refusal:
            self._last_refusal = code
            log.error("sluicegate: state not taken (%s): %s", code, why)


class _Subscription:
    """The push channel, opened again whenever it breaks or falls silent."""

    def __init__(
        self, connect: Callable[[], Redis], channel: str, silence_s: float, pause: Callable[[float], object]
    ) -> None:
        self._connect = connect
        self._channel = channel
        self._pause = pause
        self._silence_s = silence_s
        self._pubsub: Any = None
        self._heard_at = 0.0
        self._retry_at = 0.0

    def __enter__(self) -> _Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()

    def hears(self, timeout_s: float) -> bytes | None:
        """The hint that came within `timeout_s`, or None. A broken channel counts as silence; the poll goes on."""
        now = time.monotonic()
        try:
            if self._pubsub is None:
                if now < self._retry_at:
                    self._pause(timeout_s)
                    return None
                redis: Any = self._connect()
                self._pubsub = redis.pubsub(ignore_subscribe_messages=True)
                self._pubsub.subscribe(self._channel)
                self._heard_at = now
            message = self._pubsub.get_message(timeout=timeout_s)
        except (RedisError, OSError):
            self._drop()
            return None
        if message is not None:
            self._heard_at = time.monotonic()
            return message["data"] if isinstance(message.get("data"), bytes) else b""
        if time.monotonic() - self._heard_at > self._silence_s:
            # Half-open connections look like this: nothing arrives and nothing fails.
            self._drop()
        return None

    def _drop(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        self._retry_at = time.monotonic() + 0.5
        if pubsub is not None:
            # It may be broken; that is why it is dropped.
            with suppress(RedisError, OSError):
                pubsub.close()
