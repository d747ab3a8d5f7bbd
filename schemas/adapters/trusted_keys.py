"""Which keys are trusted. Public keys only: they can check a state, never make one."""

from __future__ import annotations

from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class TrustedKeys:
    """Ed25519 public keys by kid; several at once, so that keys can be rotated: a `schemas.snapshots.Verify`."""

    def __init__(self, raw_keys: Mapping[str, bytes]) -> None:
        self._keys = {kid: Ed25519PublicKey.from_public_bytes(raw) for kid, raw in raw_keys.items()}

    def verify(self, kid: str, payload: bytes, signature: bytes) -> bool:
        """Did the trusted key `kid` make this signature over these bytes? False for an unknown key."""
        key = self._keys.get(kid)
        if key is None:
            return False
        try:
            key.verify(signature, payload)
        except InvalidSignature:
            return False
        return True
