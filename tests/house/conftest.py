"""The tree as it would be committed, and packages of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file that is or would be committed, as paths below the root. Links are files here."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: which files belong to the tree cannot be told")
    # The checkout may belong to another user than the one who tests it.
    command = [
        "git",
        "-c",
        f"safe.directory={ROOT}",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [Path(name) for name in listed.split("\0") if name]
    return [path for path in paths if os.path.lexists(ROOT / path)]


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what packages are built from: setuptools leaves files where it builds."""
    copy = tmp_path_factory.mktemp("source") / "tree"
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy)
    for room in ("src", "schemas", "workers", "control", "migrations"):
        leave_out = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / room, copy / room, symlinks=True, ignore=leave_out)
    return copy


def build_wheel(source: Path, into: Path) -> Path:
    """The wheel of `source`, which is a folder or a source distribution."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(into), str(source)], check=True, timeout=100)
    (built,) = into.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def wheel(source: Path) -> Path:
    return build_wheel(source, source.parent)


@pytest.fixture(scope="session")
def sdist(source: Path, wheel: Path) -> Path:
    """The source distribution. It needs the wheel only so that the two do not build in one folder at once."""
    script = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", script, str(source.parent)]
    subprocess.run(command, cwd=source, capture_output=True, check=True, timeout=100)
    (built,) = source.parent.glob("*.tar.gz")
    return built


@pytest.fixture(scope="session")
def wheel_from_sdist(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(sdist, tmp_path_factory.mktemp("from-sdist"))


@dataclass(frozen=True)
class Install:
    """A virtual environment."""

    path: Path

    def run(self, program: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run one of its programs, with `settings` as all there is of our own environment."""
        environ = {"PATH": os.defpath, "HOME": str(self.path), "LC_ALL": "C.UTF-8", **settings}
        command = [str(self.path / "bin" / program), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, env=environ, cwd=self.path, timeout=60, check=False
        )


@pytest.fixture(scope="session")
def base_install(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """The wheel alone, as a worker host installs it."""
    path = tmp_path_factory.mktemp("base")
    yield _install(str(wheel), path)
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def full_install(wheel_from_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Install]:
    """The wheel that the source distribution builds, with every extra."""
    path = tmp_path_factory.mktemp("full")
    yield _install(f"{wheel_from_sdist}[control,embedded]", path)
    shutil.rmtree(path)


def _install(requirement: str, path: Path) -> Install:
    """A new environment below `path` with `requirement`, at the versions of the lock."""
    venv.create(path / "venv", symlinks=True)
    pins = [line.removesuffix(" \\") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line]
    (path / "pins.txt").write_text("\n".join(pin for pin in pins if not pin.startswith((" ", "#"))) + "\n")
    wanted = ["install", "--quiet", "-c", str(path / "pins.txt"), requirement]
    by_uv = [sys.executable, "-m", "uv", "pip", *wanted, "--python", str(path / "venv")]
    if subprocess.run(by_uv, capture_output=True, timeout=60, check=False).returncode != 0:
        # uv does not know every setting of pip's that may lead to a machine's packages.
        by_pip = [sys.executable, "-m", "pip", "--python", str(path / "venv"), *wanted]
        subprocess.run(by_pip, check=True, timeout=100)
    return Install(path / "venv")
