"""Whose word each heartbeat is, as it is read; and the episodes in which somebody forges them, told once each.

What is checked is remembered by its digest: a look reads most heartbeats again that the one before has read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from threading import Lock

from sluicegate.control.fleet.sightings import Remembered
from sluicegate.control.links.state_redis import Heard
from sluicegate.schemas import lives
from sluicegate.schemas.adapters.life_keys import is_signed_by
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.lives import Life
from sluicegate.schemas.progress import Sighting
from sluicegate.schemas.signed_beats import Forged, Word, read

MOST_KNOWN = 50_000
"""Signatures that are remembered, of 16 bytes each: ten for each of 5,000 workers."""
OVER_AFTER_S = 60.0
"""An episode is over when nothing was forged for so long. Events are no closer to each other either."""
MOST_FOLLOWED = 1000
"""Nodenames of one look whose episodes are followed."""
MOST_NAMED = 20
"""In one event; how many there were is told beside it."""
OVERTAKEN = "an older heartbeat stands in the place of a later one"


@dataclass(frozen=True, slots=True)
class Told:
    """What an entry of Redis tells of its nodename. `seen` None: its bytes are lost, or no beat of this worker.

    `others`: what several lives of it said last. `forged`: why its beat is not the word of the life that it names.
    """

    nodename: str
    seen_at: datetime
    seen: Sighting | None
    others: tuple[Life, ...] = ()
    has_others: bool = False
    forged: str | None = None

    def forged_beside(self, row: Remembered | None) -> str | None:
        """Why it is not believed, what is remembered included; None: it is."""
        if self.forged is None and self.seen and row and lives.is_overtaken(self.seen, row.lives):
            return OVERTAKEN
        return self.forged


class Words:
    """Reads the heartbeats of one namespace. Thread-safe."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._lock = Lock()
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def told(self, heard: Heard, now: datetime) -> Told:
        """What this entry tells at `now`, which is Redis's time."""
        seen, forged = None, None
        if heard.raw is not None:
            try:
                beat, word = self.read(heard.raw)
                if beat.nodename == heard.nodename:
                    seen = Sighting(beat=beat, seen_at=heard.seen_at, word=word)
            except Forged as error:
                forged = error.message
            except InvalidInput:
                pass  # no beat at all: nobody's word
        others = tuple(lives.decode(heard.lives, heard.nodename, now, self.read))
        return Told(heard.nodename, heard.seen_at, seen, others, heard.lives is not None, forged)

    def read(self, raw: bytes) -> tuple[Beat, Word]:
        """A beat, and on whose word it stands. Raises InvalidInput, and Forged."""
        return read(raw, self._namespace, self._is_signed)

    def _is_signed(self, public_key: bytes, message: bytes, signature: bytes) -> bool:
        digest = blake2b(public_key + signature + message, digest_size=16).digest()
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
                return True
        if not is_signed_by(public_key, message, signature):
            return False
        with self._lock:
            self._known[digest] = None
            while len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Begun:
    """Nodenames whose heartbeats somebody has begun to forge, each with why they are not believed. `count`: of all."""

    why: Mapping[str, str]
    count: int


class Episodes:
    """What is told of forgeries, look by look. One thread at a time."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}
        self._waiting: dict[str, str] = {}
        self._overtaken: set[str] = set()
        self._told_at: float | None = None

    def note(self, forged: Mapping[str, str], at_s: float) -> Begun | None:
        """What is to be told after a look at `at_s` that found `forged`: nodenames, and why.

        A beat that was put back counts where two looks found it: a Redis that fails over may have an older one for a
        moment.
        """
        overtaken = {name for name, why in forged.items() if why == OVERTAKEN}
        sure = {name: why for name, why in forged.items() if name not in overtaken or name in self._overtaken}
        self._overtaken = overtaken
        sure = dict(sorted(sure.items())[:MOST_FOLLOWED])
        self._last = {name: last for name, last in self._last.items() if at_s - last < OVER_AFTER_S}
        self._waiting |= {name: why for name, why in sure.items() if name not in self._last}
        self._last |= dict.fromkeys(sure, at_s)
        if not self._waiting or (self._told_at is not None and at_s - self._told_at < OVER_AFTER_S):
            return None
        begun, self._waiting, self._told_at = self._waiting, {}, at_s
        return Begun(dict(sorted(begun.items())[:MOST_NAMED]), len(begun))


def forged_among(told: Iterable[Told], remembered: Mapping[str, Remembered]) -> dict[str, str]:
    """The nodenames in whose place stands what is not their word, and why."""
    found = ((one.nodename, one.forged_beside(remembered.get(one.nodename))) for one in told)
    return {nodename: why for nodename, why in found if why is not None}
