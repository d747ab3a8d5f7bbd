"""The Ed25519 key that signs the state (RFC 8032): made, read, and used by the control plane alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from sluicegate.schemas.errors import InvalidInput, InvalidSetting, Refused
from sluicegate.schemas.public_keys import format_public_key, kid_of

SETTING = "SLUICEGATE_SIGNING_KEY_FILE"


class SigningKey:
    """A private key. Implements `schemas.snapshots.Sign`."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public_bytes = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self._kid = kid_of(self.public_bytes)

    @property
    def kid(self) -> str:
        """The name of the key."""
        return self._kid

    def sign(self, payload: bytes) -> bytes:
        """The 64 bytes of the signature over `payload`."""
        return self._private.sign(payload)


def create(path: Path) -> str:
    """Makes a new private key in `path` (mode 0600) and returns its public key as one line.

    Raises Refused where `path` is there already (a lost key cannot be had again), InvalidInput where it
    cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Written under another name and linked: whoever is killed in between leaves no half a key behind, which
    # would stand in the way of every later start.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        finally:
            draft.unlink()
    except FileExistsError:
        raise Refused(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise InvalidInput("path", f"{path} cannot be written: {error.strerror}") from None
    return format_public_key(SigningKey(private).public_bytes)


def load(path: Path) -> SigningKey:
    """The private key in `path`; raises InvalidSetting where it is missing, open to others, or not ours."""
    try:
        mode = path.stat().st_mode
        pem = path.read_bytes()
    except OSError as error:
        raise InvalidSetting(SETTING, f"{path} cannot be read: {error.strerror}") from None
    # Reading by the group is let pass: it is how orchestrators mount secrets for a user that is not root.
    if stat.S_IMODE(mode) & (stat.S_IWGRP | stat.S_IRWXO):
        raise InvalidSetting(SETTING, f"{path} is open to other users: chmod 600 {path}")
    try:
        private = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InvalidSetting(SETTING, f"{path} holds no private key: `sluicegate keys create` makes one") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise InvalidSetting(SETTING, f"{path} holds a key of another kind: an Ed25519 key is needed")
    return SigningKey(private)


def public_of(path: Path) -> str:
    """The public key line of the private key in `path`; raises InvalidSetting as `load` does."""
    return format_public_key(load(path).public_bytes)
