"""Ed25519 for heartbeats, in both halves: a key that a worker makes and signs with, and the check of that."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class OwnKey:
    """A private key of a worker: of one life, or of its place."""

    def __init__(self, raw: bytes | None = None) -> None:
        """From the 32 bytes that `raw` gave out once; None makes a new one. Raises ValueError for other lengths."""
        self._private = Ed25519PrivateKey.generate() if raw is None else Ed25519PrivateKey.from_private_bytes(raw)
        self.public = self._private.public_key().public_bytes_raw()

    def raw(self) -> bytes:
        """The 32 bytes of the private key."""
        return self._private.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of the signature over `message`."""
        return self._private.sign(message)


def is_signed_by(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Did this key, of 32 bytes, make this signature over this message? A `schemas.signed_beats.Verify`."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
