"""What a worker's own holds leave for its next life: one small JSON file per namespace and nodename.

It can only close, as `memory`: what stands in it is held until it has been judged anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sluicegate.schemas.errors import InvalidInput
from sluicegate.schemas.health.local_holds import LocalHold
from sluicegate.schemas.holds.hold import HoldKey
from sluicegate.schemas.scopes import Scope
from sluicegate.schemas.times import from_wire, to_wire
from sluicegate.workers.log import logger

log = logger(__name__)

LARGEST = 1 << 18
"""Of what is read of the file, in bytes: ours has some hundred for each hold."""
MOST_CLEARED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cleared:
    """An operator cleared a rule: `mark` tells which time, `at` when that was seen, by this host's clock."""

    mark: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What one life leaves to the next."""

    holds: tuple[LocalHold, ...] = ()
    cleared: Mapping[HoldKey, Cleared] = field(default_factory=dict)


class OwnHoldsFile:
    """The file of one worker. One that cannot be written is said once: then the record alone outlives the worker."""

    def __init__(self, state_dir: Path, namespace: str, nodename: str) -> None:
        name = f"{quote(namespace, safe='')}.{quote(nodename, safe='@')}.holds.json"
        self.path = state_dir / "workers" / name
        self._complained = False

    def load(self) -> Left:
        """What the life before left; nothing where there is no file or it cannot be read, whatever is in its place."""
        try:
            return _parsed(_read(self.path))
        except FileNotFoundError:
            return Left()
        except Exception as error:  # a file may hold anything (RecursionError, for one), and a worker must start
            log.warning("sluicegate: %s cannot be read (%s): own holds are judged anew", self.path, error)
            return Left()

    def save(self, left: Left) -> None:
        """Replaces the file as a whole. Never raises."""
        # The process id keeps two workers that were given one nodename from tearing each other's file.
        draft = self.path.with_suffix(f".{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Not synced: it outlives the process. After a power cut the devices are judged before anything starts.
            draft.write_text(json.dumps(_spelled(left)))
            draft.replace(self.path)
        except OSError as error:
            if not self._complained:
                log.warning(
                    "sluicegate: %s cannot be written (%s): a restart knows own holds by the record alone",
                    self.path,
                    error,
                )
                self._complained = True


def _spelled(left: Left) -> dict[str, Any]:
    newest = sorted(left.cleared.items(), key=lambda entry: entry[1].at)[-MOST_CLEARED:]
    return {
        "holds": [hold.to_wire() for hold in left.holds],
        "cleared": [
            {
                "scope": str(key.scope),
                "cause": str(key.cause),
                "rule": key.source,
                "mark": one.mark,
                "at": to_wire(one.at),
            }
            for key, one in newest
        ],
    }


def _read(path: Path) -> str:
    # Reading what is no file may never end, and what is so long is not ours.
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise ValueError(f"it has more than {LARGEST} bytes")
    return raw.decode()


def _parsed(text: str) -> Left:
    data = json.loads(text)
    holds, cleared = data["holds"], data["cleared"]
    if not isinstance(holds, list) or not isinstance(cleared, list):
        raise InvalidInput("holds", "is no list")
    return Left(
        holds=tuple(map(LocalHold.from_wire, holds)),
        cleared={
            HoldKey(scope=Scope.parse(one["scope"]), cause=one["cause"], source=one["rule"]): Cleared(
                mark=str(one["mark"]), at=from_wire(one["at"], "at")
            )
            for one in cleared
        },
    )
