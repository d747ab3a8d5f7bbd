"""Whose word a heartbeat is: signed by the life that it tells of, and shown to be of that life's place. Pure.

Whoever has a worker's credential can write every worker's heartbeat. So each life has a key pair of its own, and is
called by its public key: `ed25519:KEY` is its incarnation. A beat that tells of such a life counts where that key
signed it, and nobody needs to have bound the one to the other before. An incarnation of another form is that of an
older version's worker, which signs nothing.

A second key, kept on the worker's host, is that of its place: the nodename there. It signs the names of the lives that
begin there, so that a stranger's life is not taken for the next one (`schemas.lives`).

On the wire: the beat's JSON, then `"place":{"key":…,"sig":…}` where there is one, then `"sig":…` as the very last key.
The signature (Ed25519, RFC 8032) is over all bytes before the comma that precedes it, behind a line that names the
namespace. Older control planes read past both keys.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from sluicegate.schemas.beats import Beat
from sluicegate.schemas.errors import InvalidInput

LIFE: Final = "ed25519:"
KEY_BYTES = 32

Sign = Callable[[bytes], bytes]
Verify = Callable[[bytes, bytes, bytes], bool]
"""Did this public key make this signature over this message? The arguments: key, message, signature."""

_TAIL = re.compile(rb',"sig":"([A-Za-z0-9+/]{86}==)"\}')
_TAIL_BYTES = len(b',"sig":""}') + 88
_PLACE = re.compile(rb',"place":\{"key":"([A-Za-z0-9+/]{43}=)","sig":"([A-Za-z0-9+/]{86}==)"\}')
_PLACE_BYTES = len(b',"place":{"key":"","sig":""}') + 44 + 88


class Forged(InvalidInput):
    """It says that it is the word of a life whose word it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """On whose word a heartbeat stands. `place`: the key of the place that its life was shown to be of, as base64."""

    is_signed: bool = False
    place: str | None = None

    def to_wire(self) -> dict[str, Any]:
        """As the database keeps it beside a beat."""
        return {"signed": self.is_signed, "place": self.place}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any] | None) -> Self:
        """The inverse; None (a row of an older version) is unsigned. Raises KeyError and TypeError."""
        return cls() if data is None else cls(is_signed=bool(data["signed"]), place=data["place"])


UNSIGNED: Final = Word()


def life_of(public_key: bytes) -> str:
    """The incarnation of the life with this key, of 32 bytes."""
    return LIFE + base64.urlsafe_b64encode(public_key).rstrip(b"=").decode()


def key_of(incarnation: str) -> bytes | None:
    """The key that signs for this life; None where none does. Raises Forged for what only looks like one."""
    if not incarnation.startswith(LIFE):
        return None
    try:
        key = base64.urlsafe_b64decode(incarnation.removeprefix(LIFE) + "=")
    except (binascii.Error, ValueError):
        key = b""
    # Of several spellings of one key only ours: a life has one name.
    if len(key) != KEY_BYTES or life_of(key) != incarnation:
        raise Forged("beat.incarnation", "is called after no key")
    return key


def place_of(namespace: str, nodename: str, public_key: bytes, sign: Sign, incarnation: str) -> dict[str, str]:
    """What the place of `public_key` says of a life that begins there: the `place` of its beats."""
    signature = sign(_birth(namespace, nodename, incarnation))
    return {"key": _text(public_key), "sig": _text(signature)}


def signed(beat: Beat, namespace: str, sign: Sign, place: Mapping[str, str] | None = None) -> bytes:
    """The bytes under the worker's beat key: `beat`, with the signature of its life."""
    told = beat.encode()[:-1]
    if place is not None:
        told += b',"place":' + json.dumps(place, separators=(",", ":")).encode()
    return told + b',"sig":"' + _text(sign(_message(namespace, told))).encode() + b'"}'


def read(raw: bytes, namespace: str, verify: Verify) -> tuple[Beat, Word]:
    """A heartbeat, and whose word it is. Raises InvalidInput for what is no beat, and Forged."""
    beat = Beat.decode(raw)
    key = key_of(beat.incarnation)
    if key is None:
        return beat, UNSIGNED
    tail = _TAIL.fullmatch(raw, max(0, len(raw) - _TAIL_BYTES))
    told = raw[:-_TAIL_BYTES]
    if tail is None or not verify(key, _message(namespace, told), base64.b64decode(tail[1])):
        raise Forged("beat", f"is not signed by {beat.incarnation}")
    return beat, Word(is_signed=True, place=_place(told, namespace, beat, verify))


def _place(told: bytes, namespace: str, beat: Beat, verify: Verify) -> str | None:
    """The place that this life was shown to be of. Raises Forged where it claims one without showing it."""
    # Where it stands is known: to parse all of it once more would cost as much as a fifth of the signature's check.
    claimed = _PLACE.fullmatch(told, max(0, len(told) - _PLACE_BYTES))
    if claimed is None:
        return None
    key, signature = map(base64.b64decode, claimed.groups())
    if not verify(key, _birth(namespace, beat.nodename, beat.incarnation), signature):
        raise Forged("beat.place", "has not signed this life")
    return _text(key)


def _message(namespace: str, told: bytes) -> bytes:
    return b"sluicegate beat\n" + namespace.encode() + b"\n" + told


def _birth(namespace: str, nodename: str, incarnation: str) -> bytes:
    # As JSON, so that no two lists of these read alike.
    return b"sluicegate place\n" + json.dumps([namespace, nodename, incarnation]).encode()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
