"""What goes on while something is upgraded: orders, again and again, and a record of all that was published."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import httpx

from sluicegate.control.process.stack import Stack
from sluicegate.control.publishing import signing_key
from sluicegate.schemas import settings
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.names import snapshot_key
from sluicegate.schemas.snapshots import unseal
from tests.fleet.harness import Fleet
from tests.fleet.sentinels import client_of


@dataclass(frozen=True, slots=True)
class Answered:
    """What one order came to. `url` None: nobody could be reached."""

    url: str | None
    status: int
    text: str


@dataclass
class Orders:
    """A client that gives an order about `scope` every `every_s`, to one address after the other. A context manager.

    Where nobody answers at one address it tries the next, with the same idempotency key.
    """

    urls: list[str]
    token: str
    scope: str
    every_s: float = 0.3
    answers: list[Answered] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="orders", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def refused(self) -> list[Answered]:
        """The orders that were not carried out."""
        return [answer for answer in self.answers if answer.status != httpx.codes.OK]

    def _run(self) -> None:
        for number in itertools.count():
            if self._stop.wait(self.every_s):
                return
            self.answers.append(self._give(number))

    def _give(self, number: int) -> Answered:
        body: dict[str, object] = {"reason": f"order {number}", "scope": self.scope, "idempotencyKey": str(uuid4())}
        body |= {"action": "resume", "forceResume": True} if number % 2 else {"action": "pause", "mode": "drain"}
        headers = {"Authorization": f"Bearer {self.token}"}
        why = ""
        for turn in range(len(self.urls)):
            url = self.urls[(number // 2 + turn) % len(self.urls)]
            try:
                answer = httpx.post(
                    f"{url}/api/system/worker-pause", json=body, headers=headers, timeout=10, trust_env=False
                )
            except httpx.TransportError as error:
                why = repr(error)
                continue
            return Answered(url, answer.status_code, answer.text)
        return Answered(None, 0, why)


class Recording:
    """Looks every few milliseconds at what is published, and at what the workers say. A context manager."""

    def __init__(self, stack: Stack, fleet: Fleet) -> None:
        key = signing_key.load(stack.state_dir / "signing.key")
        self._trusted = TrustedKeys({key.kid: key.public_bytes})
        self._namespace = stack.environ[settings.NAMESPACE.name]
        self._redis = client_of(stack.environ[settings.REDIS_URL.name])
        self._fleet = fleet
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._error: Exception | None = None
        self._states: set[str] = set()
        self._times_s: list[float] = []
        self._raw = b""
        self.publication = 0

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="recording", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._redis.close()
        if self._error is not None and error is None:
            raise self._error

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two publications so far."""
        return max(after - before for before, after in itertools.pairwise(self._times_s))

    def states(self) -> set[str]:
        """Every state that a worker has named since the last time that this was asked."""
        with self._lock:
            found, self._states = self._states, set()
        return found

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.02):
                self._look()
        except Exception as error:
            self._error = error

    def _look(self) -> None:
        raw: Any = self._redis.get(snapshot_key(self._namespace))
        if raw is not None and raw != self._raw:
            publication = unseal(raw, self._trusted, self._namespace).publication
            assert publication > self.publication, "a publication went back"
            self._raw, self.publication = raw, publication
            self._times_s.append(time.monotonic())
        with self._lock:
            self._states |= {word.state for word in self._fleet.words()}
