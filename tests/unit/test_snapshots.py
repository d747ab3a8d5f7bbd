"""The signed snapshot: it survives a round trip, and any changed byte is refused (S3)."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.errors import BadSignature, InvalidSetting, MalformedSnapshot, SnapshotRefused
from sluicegate.schemas.public_keys import format_public_key, kid_of, parse_public_keys
from sluicegate.schemas.snapshots import most_bytes, seal, unseal
from tests.unit.strategies import snapshots


class Key:
    """A private key, as the control plane has one."""

    def __init__(self, seed: int = 1) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self._key.public_key().public_bytes_raw()
        self.kid = kid_of(self.public)

    def sign(self, payload: bytes) -> bytes:
        return self._key.sign(payload)


KEY, OTHER = Key(1), Key(2)
TRUSTED = TrustedKeys({KEY.kid: KEY.public})


@given(snapshots)
def test_a_snapshot_survives_the_round_trip(snapshot):
    assert unseal(seal(snapshot, KEY), TRUSTED, "default") == snapshot


@given(snapshots)
def test_no_envelope_is_larger_than_is_reckoned_before_it_is_sealed(snapshot):
    """Whatever the publication and the epoch: an order is refused before its state could not be published."""
    assert len(seal(snapshot, KEY)) <= most_bytes(snapshot.namespace, snapshot.holds)


@given(snapshots, st.data())
def test_any_changed_byte_is_refused(snapshot, data):
    envelope = bytearray(seal(snapshot, KEY))
    at = data.draw(st.integers(0, len(envelope) - 1))
    envelope[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(SnapshotRefused):
        unseal(bytes(envelope), TRUSTED, "default")


@given(snapshots, st.data())
def test_a_truncated_or_lengthened_envelope_is_refused(snapshot, data):
    envelope = seal(snapshot, KEY)
    cut = data.draw(st.integers(0, len(envelope) - 1))
    for broken in (envelope[:cut], envelope + b" ", envelope + envelope):
        with pytest.raises(SnapshotRefused):
            unseal(broken, TRUSTED, "default")


@given(snapshots)
def test_a_key_that_is_not_trusted_signs_nothing(snapshot):
    with pytest.raises(BadSignature):
        unseal(seal(snapshot, OTHER), TRUSTED, "default")


@given(snapshots)
def test_a_trusted_kid_over_another_keys_signature_is_refused(snapshot):
    forged = json.loads(seal(snapshot, OTHER)) | {"kid": KEY.kid}
    with pytest.raises(BadSignature):
        unseal(json.dumps(forged, separators=(",", ":")).encode(), TRUSTED, "default")


@given(snapshots)
def test_two_trusted_keys_at_once_let_keys_rotate(snapshot):
    both = TrustedKeys(parse_public_keys(f"{format_public_key(KEY.public)},{format_public_key(OTHER.public)}"))
    assert unseal(seal(snapshot, KEY), both, "default") == unseal(seal(snapshot, OTHER), both, "default")


@given(snapshots)
def test_a_snapshot_of_another_namespace_is_refused(snapshot):
    with pytest.raises(MalformedSnapshot, match="namespace"):
        unseal(seal(snapshot, KEY), TRUSTED, "production")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 0},
        {"epoch": 1 << 16},
        {"version": 0},
        {"version": 1 << 44},
        {"version": True},
        {"version": "7"},
        {"publication": 0},
        {"v": 2},
        {"holds": {}},
        {"holds": [{}]},
        {"holds": None},
        {"issuedAt": "yesterday"},
        {"issuedAt": "2026-03-01T12:00:00"},
    ],
)
def test_even_a_trusted_key_cannot_make_a_worker_take_nonsense(change):
    payload = {
        "v": 1,
        "namespace": "default",
        "epoch": 1,
        "version": 1,
        "publication": 1,
        "issuedAt": "2026-03-01T12:00:00Z",
        "holds": [],
    }
    raw = json.dumps(payload | change).encode()
    envelope = {
        "v": 1,
        "kid": KEY.kid,
        "payload_b64": base64.b64encode(raw).decode(),
        "sig": base64.b64encode(KEY.sign(raw)).decode(),
    }
    with pytest.raises(MalformedSnapshot):
        unseal(json.dumps(envelope, separators=(",", ":")).encode(), TRUSTED, "default")


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff" * 100_000,
        b'"' + b"a" * 100_000 + b'"',
        json.dumps({"v": "x" * 100_000, "kid": "", "payload_b64": "", "sig": ""}).encode(),
        json.dumps({"v": 1, "kid": "k" * 100_000, "payload_b64": "", "sig": ""}, separators=(",", ":")).encode(),
    ],
)
def test_a_refusal_does_not_repeat_what_it_refuses(junk):
    """Every log of every worker would carry it."""
    with pytest.raises(SnapshotRefused) as caught:
        unseal(junk, TRUSTED, "default")
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["", " , ", "not base64!", base64.b64encode(b"short").decode()])
def test_what_is_no_public_key_is_refused_by_the_setting_s_name(text):
    with pytest.raises(InvalidSetting) as caught:
        parse_public_keys(text)
    assert caught.value.field == "SLUICEGATE_PUBLIC_KEYS"
