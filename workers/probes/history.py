"""What a probe remembers of its host's GPUs since the host booted: their faults, and which there were.

NVML tells an Xid once, and never what came before it was asked. So each is kept in a file that all probes of a host add
to. Lines of another boot count no more. A device that reports fault after fault must not fill a disk: of each code and
device one a second is written, and the file is made anew, with the newest of each, once it is large.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sluicegate.schemas.health.readings import XidSeen
from sluicegate.schemas.health.wire import MAX_XIDS

LARGEST = 1 << 18
KEPT_OF_EACH = 16
"""Of one code on one device, when the file is made anew."""
SAME_WITHIN = timedelta(seconds=2)
"""Two probes that tell of one code on one device within this tell of one event."""
_ONCE_IN_S = 1.0


class History:
    """One file, of this boot. Thread-safe enough for one writer thread and one reader."""

    def __init__(self, path: Path, boot: str | None, writer: str) -> None:
        """`writer` tells probes apart: a worker's process id."""
        self._path = path
        self._boot = boot or "unknown"
        self._writer = writer
        self._written_at: dict[tuple[str, int], float] = {}
        self._complaint: str | None = None
        self.xids: dict[str, list[XidSeen]] = {}
        self.uuids: dict[int, str] = {}
        self.most_gpus = 0
        by: dict[tuple[str, int], list[tuple[datetime, str]]] = {}
        for line in self._lines():
            self._take(line, by)

    @property
    def complaint(self) -> str | None:
        """What keeps the file from being written; None where nothing does."""
        return self._complaint

    def of(self, uuid: str) -> tuple[XidSeen, ...]:
        """All faults of this device since the boot, the newest last, MAX_XIDS at most."""
        return tuple(self.xids.get(uuid, ()))

    def note_xid(self, uuid: str, code: int, at: datetime, *, before_writing: Callable[[], None]) -> None:
        """A fault has come. `before_writing` is called once it is known here: a disk may take its time."""
        self._keep(uuid, XidSeen(code=code, at=at))
        before_writing()
        now = time.monotonic()
        if now - self._written_at.get((uuid, code), -_ONCE_IN_S) >= _ONCE_IN_S:
            self._written_at[uuid, code] = now
            self._add({"uuid": uuid, "xid": code, "at": at.isoformat()})

    def _keep(self, uuid: str, xid: XidSeen) -> None:
        """Where there are too many, the oldest of the code that came most often goes: a storm hides no other fault."""
        seen = [*self.xids.get(uuid, ()), xid]
        if len(seen) > MAX_XIDS:
            ((most, _),) = Counter(one.code for one in seen).most_common(1)
            seen.remove(next(one for one in seen if one.code == most))
        self.xids[uuid] = seen

    def note_gpus(self, uuids: Mapping[int, str], count: int) -> None:
        """`count` are listed now, and these have told their UUID, by index."""
        if count > self.most_gpus or any(self.uuids.get(index) != uuid for index, uuid in uuids.items()):
            self.most_gpus = max(count, self.most_gpus)
            self.uuids |= uuids
            self._add({"gpus": self.most_gpus, "uuids": self.uuids})

    def _add(self, said: dict[str, Any]) -> None:
        line = json.dumps(said | {"boot": self._boot, "by": self._writer}, separators=(",", ":"))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if self._path.exists() and self._path.stat().st_size > LARGEST:
                    self._make_anew()
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
        except OSError as error:
            self._complaint = f"{self._path} cannot be written ({error.strerror}): a restart will not know of faults"
        else:
            self._complaint = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _make_anew(self) -> None:
        by_kind: dict[Any, list[str]] = {}
        for line in self._lines():
            kept = by_kind.setdefault((line.get("uuid"), line.get("xid")), [])
            kept.append(json.dumps(line, separators=(",", ":")))
            del kept[:-KEPT_OF_EACH]
        draft = self._path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text("".join(f"{line}\n" for kept in by_kind.values() for line in kept), encoding="utf-8")
        draft.replace(self._path)

    def _lines(self) -> list[dict[str, Any]]:
        """Those of this boot. A file may hold anything: what cannot be read is passed over."""
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                texts = file.read(2 * LARGEST).splitlines()
        except OSError:
            return []
        found = []
        for text in texts:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(line, dict) and line.get("boot") == self._boot:
                found.append(line)
        return found

    def _take(self, line: dict[str, Any], by: dict[tuple[str, int], list[tuple[datetime, str]]]) -> None:
        """`by`: what was taken of each device and code so far, when, and from which probe."""
        try:
            if "gpus" in line:
                self.most_gpus = max(self.most_gpus, int(line["gpus"]))
                self.uuids |= {int(index): str(uuid) for index, uuid in line["uuids"].items()}
                return
            xid = XidSeen(code=int(line["xid"]), at=datetime.fromisoformat(line["at"]).astimezone(UTC))
            uuid, writer = str(line["uuid"]), str(line["by"])
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        told = by.setdefault((uuid, xid.code), [])
        is_known = any(abs(at - xid.at) <= SAME_WITHIN and writer != other for at, other in told[-KEPT_OF_EACH:])
        told.append((xid.at, writer))
        if not is_known:
            self._keep(uuid, xid)
