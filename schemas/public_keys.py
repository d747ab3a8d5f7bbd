"""Names and spelling of the Ed25519 keys. The keys themselves live in `workers` (public) and `control`."""

from __future__ import annotations

import base64
import binascii
import hashlib

from sluicegate.schemas.errors import InvalidSetting

PUBLIC_KEY_BYTES = 32


def kid_of(public_key: bytes) -> str:
    """The name of a key: the first 16 hex digits of the SHA-256 of its 32 raw public bytes."""
    return hashlib.sha256(public_key).hexdigest()[:16]


def format_public_key(public_key: bytes) -> str:
    """The one-line spelling of a public key: standard base64 of its 32 raw bytes."""
    return base64.b64encode(public_key).decode()


def parse_public_keys(text: str, setting: str = "SLUICEGATE_PUBLIC_KEYS") -> dict[str, bytes]:
    """The trusted keys in `text` (comma-separated), raw bytes by kid; raises InvalidSetting."""
    keys: dict[str, bytes] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        try:
            raw = base64.b64decode(part, validate=True)
        except binascii.Error:
            raise InvalidSetting(setting, f"{part!r} is not base64") from None
        if len(raw) != PUBLIC_KEY_BYTES:
            raise InvalidSetting(setting, f"a public key has {PUBLIC_KEY_BYTES} bytes, {part!r} has {len(raw)}")
        keys[kid_of(raw)] = raw
    if not keys:
        raise InvalidSetting(setting, "names no key: `sluicegate keys create` prints one")
    return keys
