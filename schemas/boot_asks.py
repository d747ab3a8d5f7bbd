"""How a worker that starts asks for a state that was signed after it did: nonces in Redis, and their answers. Pure.

A worker makes a nonce and writes it under `names.asks_key`; a control plane puts the nonces that it finds there, before
it reads the truth, into the state that it signs then (`Snapshot.answers`). Nobody has recorded such a state before.

On the wire all of them are one text, of records `{seconds since 1970, 10 digits}{nonce, 16 characters}`, the oldest
first.
"""

from __future__ import annotations

import random
import re
import secrets

NONCE_CHARS = 16
RECORD_CHARS = 10 + NONCE_CHARS
MOST_ASKING = 2_000
"""Workers that ask at once; where there are more the oldest asks go, and are made again."""
MAX_ASKS_BYTES = MOST_ASKING * RECORD_CHARS
MOST_ANSWERED = 500
"""Nonces that one state answers, so that it stays small however many workers start at once."""
ANSWER_BYTES = 26
"""Of an envelope: a nonce in quotes and its comma, in base64."""
ASKED_FOR_S = 30
"""How long a worker that asks no more is answered."""

_NONCE = re.compile(rb"[A-Za-z0-9_-]{16}")


def new_nonce() -> str:
    """96 bits by chance, in base64url."""
    return secrets.token_urlsafe(12)


def asked(raw: bytes) -> list[str]:
    """The nonces in what stands under the key, whatever that is."""
    if len(raw) > MAX_ASKS_BYTES or len(raw) % RECORD_CHARS:
        return []
    found = (raw[at + 10 : at + RECORD_CHARS] for at in range(0, len(raw), RECORD_CHARS))
    return sorted({nonce.decode() for nonce in found if _NONCE.fullmatch(nonce)})


def answered(nonces: list[str], room_bytes: int) -> tuple[str, ...]:
    """Those that one state answers, which has `room_bytes` left; by chance, so that a flood only delays."""
    most = max(0, min(MOST_ANSWERED, room_bytes // ANSWER_BYTES - 1))
    return tuple(nonces if len(nonces) <= most else random.sample(nonces, most))
