"""A fake NVML: a C library with NVML's symbols, made with the machine's own compiler, told what to say by a file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parent / "nvml.c"
GIB = 1 << 30


def built(folder: Path, *, old: bool = False) -> Path:
    """The folder of a `libnvidia-ml.so.1`; `old`: of a driver without the newer symbols.

    A test that asks for it where nothing can compile is skipped; CI installs gcc, and never skips.
    """
    if shutil.which("gcc") is None and os.environ.get("CI") != "true":
        pytest.skip("gcc is not installed here (Debian's package gcc)")
    flags = ["-DOLD"] if old else []
    library = folder / "libnvidia-ml.so.1"
    command = ["gcc", "-shared", "-fPIC", "-O2", "-fvisibility=hidden", "-w", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([*command, *flags, "-o", str(library), str(SOURCE), "-lpthread"], check=True, timeout=60)
    return folder


class FakeNvml:
    """A driver whose GPUs fare as `say` tells. `environ` is what a process needs to meet it."""

    def __init__(self, library: Path, folder: Path, *, gpus: int = 1) -> None:
        """`library` is a folder that `built` made. Each GPU has 24 GiB, of which 23 are free."""
        self.folder = folder
        self.state = folder / "nvml.state"
        self.log = folder / "nvml.log"
        self.device = folder / "nvidia0"
        self._library = library
        self._said: dict[str, Any] = {"count": gpus, "version": "580.65.06"}
        self._events = 0
        for gpu in range(gpus):
            self._said |= {f"gpu.{gpu}.{what}": value for what, value in healthy(gpu).items()}
        self.say({})

    @property
    def environ(self) -> dict[str, str]:
        return {
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, [str(self._library), os.environ.get("LD_LIBRARY_PATH")])),
            "FAKE_NVML_STATE": str(self.state),
            "FAKE_NVML_LOG": str(self.log),
            "FAKE_NVML_DEVICE": str(self.device),
        }

    def uuid(self, gpu: int) -> str:
        return str(self._said[f"gpu.{gpu}.uuid"])

    def say(self, what: Mapping[str, Any], *, gpu: int | None = None) -> None:
        """Change these; None takes a key away. With `gpu` the keys are that GPU's."""
        for key, value in what.items():
            name = key if gpu is None else f"gpu.{gpu}.{key}"
            if value is None:
                self._said.pop(name, None)
            else:
                self._said[name] = value
        draft = self.state.with_suffix(".tmp")
        draft.write_text("".join(f"{key} {value}\n" for key, value in self._said.items()))
        draft.replace(self.state)

    def xid(self, code: int, *, gpu: int = 0) -> None:
        """An Xid event comes."""
        self._events += 1
        self.say({f"event.{self._events}": f"{gpu} {code}"})

    def calls(self, is_wanted: Callable[[str], bool] = lambda _: True) -> list[tuple[int, str]]:
        """The calls so far whose symbol `is_wanted`: process and symbol."""
        if not self.log.exists():
            return []
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [(int(pid), symbol) for pid, symbol, _ in lines if is_wanted(symbol)]


def healthy(gpu: int) -> dict[str, Any]:
    """What a GPU says that is well and does little."""
    return {
        "uuid": f"GPU-{gpu:08x}-0000-4000-8000-{gpu:012x}",
        "name": "Fake H100",
        "total": 24 * GIB,
        "free": 23 * GIB,
        "reserved": GIB // 2,
        "field.230": 0,
        "ecc": 0,
        "remapped": 0,
        "temperature": 41,
        "slowdown": 90,
        "reasons": 1,
        "power": 71_000,
        "power_limit": 700_000,
        "utilization": 3,
    }
