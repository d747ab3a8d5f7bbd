"""The signed snapshot: the whole pause state as one message that a worker can check by itself.

On the wire it is an envelope `{v, kid, payload_b64, sig}` in JSON. The signature is over the raw payload
bytes, so that no two JSON writers need agree on spacing; `kid` names the key, and several public keys may
be trusted at once (rotation). Ed25519 is RFC 8032; `sig` and `payload_b64` are standard base64.

A pair (epoch, version) orders editions. The publication is a counter that goes up with every publication, a
repeated one included: who sees it advance knows that a control plane is alive and has read the truth.
"""

from __future__ import annotations

import base64
import binascii
import json
import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

from sluicegate.schemas.errors import BadSignature, InvalidInput, MalformedSnapshot
from sluicegate.schemas.holds.hold import Hold, Holds
from sluicegate.schemas.times import from_wire, to_wire

PROTOCOL = 1
MAX_EPOCH = (1 << 16) - 1
MAX_VERSION = (1 << 44) - 1
MAX_PUBLICATION = (1 << 63) - 1
MAX_ENVELOPE_BYTES = 1 << 20
"""More than this cannot be an envelope of ours."""
MAX_ORDERED_BYTES = MAX_ENVELOPE_BYTES // 8 * 7
"""As large as an order may make it: what the clock does to holds by itself must still fit."""
_WRAPPING_BYTES = 512
"""At least as much as stands around a payload: the key's name, the signature, and the names of the fields."""


class Edition(NamedTuple):
    """Which edition of the state: compared as a pair, epoch first."""

    epoch: int
    version: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.version}"


NOTHING = Edition(0, 0)
"""Below every edition that a control plane can publish (they start at 1.1)."""


class Sign(Protocol):
    """What holds a private key; only the control plane has one."""

    @property
    def kid(self) -> str:
        """Which key it is, as envelopes name it (`public_keys.kid_of`)."""
        ...

    def sign(self, payload: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature over exactly these bytes."""
        ...


class Verify(Protocol):
    """What holds the public keys that are trusted: it can check a state, and make none."""

    def verify(self, kid: str, payload: bytes, signature: bytes) -> bool:
        """Did the trusted key `kid` make this signature over these bytes? False for an unknown key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The pause state of one namespace at one edition. `publication` counts publications, `issued_at` is UTC.

    `answers`: the nonces of workers that start, found before the truth was read (`schemas.boot_asks`). None: a control
    plane of an earlier version signed it, which answers nobody.
    """

    namespace: str
    epoch: int
    holds: Holds
    publication: int
    issued_at: datetime
    answers: tuple[str, ...] | None = None

    @property
    def edition(self) -> Edition:
        """(epoch, version): which of two snapshots is the newer, however often each was published."""
        return Edition(self.epoch, self.holds.version)

    def to_payload(self) -> bytes:
        """The JSON that is signed, as UTF-8. Every call gives the same bytes: holds are sorted."""
        body: dict[str, object] = {
            "v": PROTOCOL,
            "namespace": self.namespace,
            "epoch": self.epoch,
            "version": self.holds.version,
            "beat": self.publication,
            "issuedAt": to_wire(self.issued_at),
            "holds": [hold.to_wire() for hold in self.holds.sorted()],
        }
        if self.answers is not None:
            body["answers"] = list(self.answers)
        return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def most_bytes(namespace: str, holds: Holds) -> int:
    """An upper bound for the envelope that these holds come in, whatever the epoch, the publication and the key."""
    widest = Snapshot(
        namespace=namespace,
        epoch=MAX_EPOCH,
        holds=holds,
        publication=MAX_PUBLICATION,
        issued_at=datetime.max.replace(tzinfo=UTC),
    )
    return -(-len(widest.to_payload()) // 3) * 4 + _WRAPPING_BYTES


def seal(snapshot: Snapshot, key: Sign) -> bytes:
    """The envelope with `snapshot` in it, signed by `key`, in the one spelling that `unseal` takes."""
    payload = snapshot.to_payload()
    return _envelope(key.kid, payload, key.sign(payload))


def unseal(envelope: bytes, keys: Verify, namespace: str) -> Snapshot:
    """The snapshot in `envelope`, checked: signature first, then shape, then namespace.

    Raises MalformedSnapshot or BadSignature. Nothing of the payload is looked at before its signature holds.
    """
    try:
        outer = json.loads(envelope)
        protocol, kid = outer["v"], outer["kid"]
        payload = base64.b64decode(outer["payload_b64"], validate=True)
        signature = base64.b64decode(outer["sig"], validate=True)
    except (ValueError, KeyError, TypeError, binascii.Error, RecursionError) as error:
        raise MalformedSnapshot(f"not an envelope: {_said(error)}") from None
    if protocol != PROTOCOL or isinstance(protocol, bool) or not isinstance(kid, str):
        raise MalformedSnapshot(f"envelope of protocol {_short(protocol)}, this is protocol {PROTOCOL}")
    # Only the payload is signed, so the wrapping must have one spelling: else a byte of it could be
    # changed unseen, and "any changed byte is refused" would not be true.
    if _envelope(kid, payload, signature) != envelope:
        raise MalformedSnapshot("the envelope is not in its canonical form")
    if not keys.verify(kid, payload, signature):
        raise BadSignature(f"no trusted key made this signature (kid {_short(kid)})")
    return _parse(payload, namespace)


def _envelope(kid: str, payload: bytes, signature: bytes) -> bytes:
    """The one spelling of an envelope: no spaces, this order, and base64 as an encoder writes it (no spare bits)."""
    body, sig = base64.b64encode(payload).decode(), base64.b64encode(signature).decode()
    return f'{{"v":{PROTOCOL},"kid":{json.dumps(kid)},"payload_b64":"{body}","sig":"{sig}"}}'.encode()


def _parse(payload: bytes, namespace: str) -> Snapshot:
    try:
        body = json.loads(payload)
        if body["v"] != PROTOCOL:
            raise MalformedSnapshot(f"payload of protocol {_short(body['v'])}, this is protocol {PROTOCOL}")
        if body["namespace"] != namespace:
            raise MalformedSnapshot(f"a snapshot of namespace {_short(body['namespace'])}, not {namespace!r}")
        if not isinstance(body["holds"], list):
            raise MalformedSnapshot("holds is not a list")
        return Snapshot(
            namespace=namespace,
            epoch=_count(body, "epoch", MAX_EPOCH),
            holds=Holds(
                version=_count(body, "version", MAX_VERSION),
                active=frozenset(Hold.from_wire(hold) for hold in body["holds"]),
            ),
            publication=_count(body, "beat", MAX_PUBLICATION),
            issued_at=from_wire(body["issuedAt"], "issuedAt"),
            answers=_answers(body.get("answers")),
        )
    except (ValueError, KeyError, TypeError, InvalidInput, RecursionError) as error:
        raise MalformedSnapshot(f"not a snapshot: {_said(error)}") from None


_short = reprlib.repr
"""What is quoted in a refusal came from whoever can write there: a megabyte of it may not end in every log."""


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:100]}"


def _answers(said: object) -> tuple[str, ...] | None:
    return tuple(one for one in said if isinstance(one, str)) if isinstance(said, list) else None


def _count(body: dict[str, object], field: str, most: int) -> int:
    value = body[field]
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise MalformedSnapshot(f"{field} {_short(value)} is not a count from 1 to {most}")
    return value
