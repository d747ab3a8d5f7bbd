"""The signing key's file: made once, kept closed, and judged in words."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sluicegate.control.publishing import signing_key
from sluicegate.schemas.adapters.trusted_keys import TrustedKeys
from sluicegate.schemas.errors import InvalidInput, InvalidSetting, Refused
from sluicegate.schemas.public_keys import kid_of, parse_public_keys


def test_a_new_key_is_private_and_its_public_line_is_what_workers_trust(tmp_path: Path) -> None:
    """Mode 0600; the line parses to the same key, under the same name."""
    path = tmp_path / "key"
    line = signing_key.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_key.public_of(path) == line
    key = signing_key.load(path)
    assert parse_public_keys(line) == {key.kid: key.public_bytes}
    assert key.kid == kid_of(key.public_bytes)


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    """A lost key cannot be had again."""
    path = tmp_path / "key"
    signing_key.create(path)
    before = path.read_bytes()
    with pytest.raises(Refused, match="never overwritten"):
        signing_key.create(path)
    assert path.read_bytes() == before


def test_a_signature_holds_for_its_bytes_and_its_key_alone(tmp_path: Path) -> None:
    """RFC 8032, and several trusted keys at once."""
    for name in "ab":
        signing_key.create(tmp_path / name)
    a, b = signing_key.load(tmp_path / "a"), signing_key.load(tmp_path / "b")
    trusted = TrustedKeys({a.kid: a.public_bytes, b.kid: b.public_bytes})
    signature = a.sign(b"state")
    assert trusted.verify(a.kid, b"state", signature)
    assert not trusted.verify(a.kid, b"State", signature)
    assert not trusted.verify(b.kid, b"state", signature)
    assert not trusted.verify("unknown", b"state", signature)
    assert not trusted.verify(a.kid, b"state", b"short")


def test_a_file_that_is_no_key_of_ours_is_said_to_be_so(tmp_path: Path) -> None:
    """InvalidSetting names the setting; the file's content is not repeated."""
    other = tmp_path / "other"
    other.write_bytes(
        generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    junk = tmp_path / "junk"
    junk.write_text("secret junk")
    open_one = tmp_path / "open"
    signing_key.create(open_one)
    open_one.chmod(0o644)
    for path in (other, junk):
        path.chmod(0o600)
    for path, words in [
        (other, "another kind"),
        (junk, "no private key"),
        (open_one, "chmod 600"),
        (tmp_path, "cannot"),
    ]:
        with pytest.raises(InvalidSetting, match=words) as caught:
            signing_key.load(path)
        assert caught.value.field == "SLUICEGATE_SIGNING_KEY_FILE"
        assert "secret junk" not in str(caught.value)
    with pytest.raises(InvalidSetting, match="cannot be read"):
        signing_key.load(tmp_path / "missing")


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    """One line, no traceback."""
    with pytest.raises(InvalidInput, match="cannot be written"):
        signing_key.create(tmp_path / "no" / "such" / "directory")
