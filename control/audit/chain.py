"""The chain of the audit, judged outside of the database that keeps it. Pure.

Every event has a position (1, 2, 3, …), the hash of the event before it, and a SHA-256 over all that it says, both
of these included. Who changes, removes, inserts or moves an event breaks the chain there; who then writes
everything after it anew changes the head, which stands in an export. docs/decisions/0012 has the canonical form.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self
from uuid import UUID

from sluicegate.schemas.errors import AuditBroken, InvalidInput
from sluicegate.schemas.snapshots import NOTHING, Edition

FORM: Final = "sluicegate-event-1"
"""The first field of the canonical form: what it is."""

_HASH = re.compile(r"[0-9a-f]{64}")

Value = str | int | bytes | UUID | None


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ended: its last position, and the hash there in hex."""

    position: int
    hash: str

    def to_wire(self) -> dict[str, Any]:
        """As `sluicegate audit head --json` prints it."""
        return {"position": self.position, "hash": self.hash}

    def __str__(self) -> str:
        return f"{self.position} {self.hash}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `sluicegate audit head` printed, with or without `--json`; raises InvalidInput."""
        try:
            found = json.loads(text) if text.lstrip().startswith("{") else dict(zip(_HEAD, text.split(), strict=True))
            position, digest = int(found["position"]), str(found["hash"])
        except (ValueError, KeyError, TypeError):
            raise InvalidInput("head", "is not what `sluicegate audit head` prints") from None
        if position < 0 or not _HASH.fullmatch(digest):
            raise InvalidInput("head", "is not a position and a SHA-256 in hex")
        return cls(position, digest)


_HEAD = ("position", "hash")
START: Final = Head(0, "00" * 32)
"""The head of a chain without events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One event as the chain sees it. `details` and `created_at` are as Postgres spells them: JSON, seconds since 1970.

    The three of the chain itself may be anything, None too, in a row that somebody wrote past the triggers.
    """

    position: int | None
    previous_hash: bytes | None
    hash: bytes | None
    id: int
    namespace: str | None
    epoch: int
    version: int | None
    action: str
    outcome: str
    scope: str | None
    cause: str | None
    source: str | None
    mode: str | None
    reason: str | None
    actor: str
    hold_id: UUID | None
    details: str
    created_at: str | None

    def computed_hash(self) -> bytes:
        """What `hash` must be."""
        return hashlib.sha256(
            canonical(
                (
                    FORM,
                    self.position,
                    self.previous_hash,
                    self.id,
                    self.namespace,
                    self.epoch,
                    self.version,
                    self.action,
                    self.outcome,
                    self.scope,
                    self.cause,
                    self.source,
                    self.mode,
                    self.reason,
                    self.actor,
                    self.hold_id,
                    self.details,
                    self.created_at,
                )
            )
        ).digest()


def canonical(fields: Sequence[Value]) -> bytes:
    """The bytes that are hashed: each field as LENGTH:TEXT or `-` for none, parted by commas; bytes in hex."""
    return b",".join(_spelled(field) for field in fields)


def _spelled(field: Value) -> bytes:
    if field is None:
        return b"-"
    text = (field.hex() if isinstance(field, bytes) else str(field)).encode()
    return b"%d:%s" % (len(text), text)


class Chain:
    """A chain as far as it has been walked. `editions` has the newest version that each namespace's events made."""

    def __init__(self, exported: Head | None = None) -> None:
        """`exported`: a head of former times that must be part of this chain."""
        self.head = START
        self.editions: dict[str, Edition] = {}
        self._exported = exported
        self._last_id: int | None = None

    def add(self, link: Link) -> None:
        """Goes on to the next event, in the order of positions; raises AuditBroken where it does not follow."""
        expected = self.head.position + 1
        if link.position is None:
            raise AuditBroken(f"event {link.id} has no position: it was not inserted by us", event_id=link.id)
        if link.position > expected:
            last = "the start" if self._last_id is None else f"event {self._last_id}"
            raise AuditBroken(
                f"position {expected} is missing: after {last} comes event {link.id} at position {link.position}",
                position=expected,
            )
        if link.position < expected:
            raise self._broken(link, f"its position is event {self._last_id}'s already")
        if link.computed_hash() != link.hash:
            raise self._broken(link, "it does not say what was recorded: its hash is another")
        if link.previous_hash is None or link.previous_hash.hex() != self.head.hash:
            raise self._broken(link, f"it was not recorded after event {self._last_id}, as that is now")
        self.head = Head(link.position, link.hash.hex())
        self._last_id = link.id
        if self._exported is not None and self._exported.position == self.head.position:
            self._meet(self._exported, link)
        if link.namespace is not None and link.version is not None:
            made = Edition(link.epoch, link.version)
            self.editions[link.namespace] = max(made, self.editions.get(link.namespace, NOTHING))

    def end(self) -> None:
        """There are no more events; raises AuditBroken where there were more when the head was exported."""
        if self._exported is not None and self._exported.position > self.head.position:
            where = "has no event" if self._last_id is None else f"ends with event {self._last_id}"
            raise AuditBroken(
                f"position {self.head.position + 1} is missing: the chain {where}, "
                f"and the exported head is at position {self._exported.position}",
                position=self.head.position + 1,
            )

    def _meet(self, exported: Head, link: Link) -> None:
        if exported != self.head:
            raise self._broken(link, "it is another than in the exported head: this chain was written anew")

    @staticmethod
    def _broken(link: Link, why: str) -> AuditBroken:
        return AuditBroken(f"event {link.id} at position {link.position}: {why}", link.position, link.id)
