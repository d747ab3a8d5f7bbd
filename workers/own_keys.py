"""The keys with which a worker stands by its heartbeats: one of this life, and one of its place.

The life's key is made at the start and kept in this process alone. The place's is a file beside the worker's memory,
one per namespace and nodename, mode 0600: by it the next life of this nodename shows that it takes this one's place.
Where it cannot be kept, a life that was killed is not known to be replaced by the next one (docs/security.md).
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from sluicegate.schemas.adapters.life_keys import OwnKey
from sluicegate.schemas.beats import Beat
from sluicegate.schemas.signed_beats import life_of, place_of, signed
from sluicegate.workers.log import logger

log = logger(__name__)

LARGEST = 100
"""Of what is read of the file, in bytes: ours has 45."""


class OwnKeys:
    """The keys of one life. Thread-safe: nothing changes once it is made."""

    def __init__(self, state_dir: Path, namespace: str, nodename: str) -> None:
        """Makes what is not there. Never raises for a file: a worker must start, whatever lies in its place."""
        self.path = state_dir / "workers" / f"{quote(namespace, safe='')}.{quote(nodename, safe='@')}.key"
        self._namespace = namespace
        self._life = OwnKey()
        self.incarnation = life_of(self._life.public)
        self._place = self._shown_by(_kept(self.path), nodename)

    def _shown_by(self, place: OwnKey | None, nodename: str) -> Mapping[str, str] | None:
        if place is None:
            return None
        return place_of(self._namespace, nodename, place.public, place.sign, self.incarnation)

    def spell(self, beat: Beat) -> bytes:
        """The bytes of this heartbeat, signed."""
        return signed(beat, self._namespace, self._life.sign, self._place)


def _kept(path: Path) -> OwnKey | None:
    """The key in the file, made where there is none; None where it cannot be kept or read."""
    try:
        if not path.exists():
            _make(path)
        return _read(path)
    except Exception as error:  # a file may hold anything, and a worker must start
        log.warning(
            "sluicegate: %s is no key of this place (%s): if this worker is killed, its next life is not known to be "
            "its own (docs/security.md)",
            path,
            error,
        )
        return None


def _make(path: Path) -> None:
    """Written under another name and linked: of two workers that start at once, both have the key of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(base64.b64encode(OwnKey().raw()) + b"\n")
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # the other one was faster
    finally:
        draft.unlink()


def _read(path: Path) -> OwnKey:
    """Raises ValueError and OSError."""
    # Reading what is no file may never end, and what is so long is not ours.
    if not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        return OwnKey(base64.b64decode(file.read(LARGEST).strip(), validate=True))
