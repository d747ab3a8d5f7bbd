"""What a worker remembers from one life to the next: the edition it applied last.

It can only close: the remembered edition is a fence against older states, and never a reason to start
anything (R-A12). One small JSON file per namespace and nodename, replaced as a whole.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

from sluicegate.schemas.snapshots import MAX_EPOCH, MAX_VERSION, NOTHING, Edition
from sluicegate.workers.log import logger

log = logger(__name__)

LARGEST = 1000
"""Of what is read of the file, in characters: ours has some forty."""


class Memory:
    """The file of one worker. A folder that cannot be written is said once and costs only the fence."""

    def __init__(self, state_dir: Path, namespace: str, nodename: str) -> None:
        self.path = state_dir / "workers" / f"{quote(namespace, safe='')}.{quote(nodename, safe='@')}.json"
        self._saved = NOTHING
        self._complained = False

    def load(self) -> Edition:
        """The edition applied last; NOTHING where there is no file or it cannot be read, whatever is in its place."""
        try:
            edition = _parsed(_read(self.path))
        except FileNotFoundError:
            return NOTHING
        except Exception as error:  # a file may hold anything (RecursionError, for one), and a worker must start
            log.warning("sluicegate: %s cannot be read (%s): going on without what was remembered", self.path, error)
            return NOTHING
        self._saved = edition
        return edition

    def save(self, edition: Edition) -> None:
        """Remember `edition`; does nothing where that or a newer one is remembered already. Never raises.

        A worker that boots has applied nothing yet, and its first heartbeat says so: that must not make it forget.
        """
        if edition <= self._saved:
            return
        # The process id keeps two workers that were given one nodename from tearing each other's file.
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not synced to the disk: it outlives the process, which is what it is for. After a power cut an older
            # fence is no danger, since a new incarnation opens on a fresh state only; a sync was seen to delay
            # the report of an acknowledgement by a quarter of a second on a busy disk.
            draft.write_text(json.dumps({"epoch": edition.epoch, "version": edition.version}))
            draft.replace(self.path)
        except OSError as error:
            if not self._complained:
                log.warning("sluicegate: %s cannot be written (%s): a restart will not remember", self.path, error)
                self._complained = True
            return
        self._saved = edition


def _read(path: Path) -> str:
    # Reading what is no file may never end, and what is so long is not ours.
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open(encoding="utf-8") as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} characters")
    return text


def _parsed(text: str) -> Edition:
    """Raises ValueError for what no control plane has published: as a fence it would be obeyed for ever."""
    data = json.loads(text)
    epoch, version = data["epoch"], data["version"]
    is_whole = type(epoch) is int and type(version) is int
    if not is_whole or not 0 <= epoch <= MAX_EPOCH or not 0 <= version <= MAX_VERSION:
        raise ValueError("it has no edition")
    return Edition(epoch, version)
