"""A whole sluicegate on this machine: Postgres, Valkey and the control plane, as children of this process.

`sluicegate up`, the demo and the fleet tests stand on it. One state directory holds everything:

    STATE_DIR/env            mode 0600: export lines for workers and commands in another shell
    STATE_DIR/control.env    mode 0600: what the control plane itself reads; for `sluicegate serve`
    STATE_DIR/database.env   mode 0600: the database as its owner; for `sluicegate db`, `token` and `audit verify`
    STATE_DIR/owner.json     mode 0600: the owner's token
    STATE_DIR/signing.key    mode 0600: the private key that signs the state
    STATE_DIR/cursor.keys    mode 0600: what the workers seal cursors with, as SLUICEGATE_CURSOR_KEYS has it
    STATE_DIR/ports.json     the ports of the last run, taken again where they are free
    STATE_DIR/postgres/ valkey/ *.log

The one Valkey serves two: database 0 carries the pause state, database 1 is the Celery broker, so that
purging a broker cannot take the pause state with it. The tables belong to Postgres's superuser; the control plane
works as a role that has no more than `control.store.grants` says.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shlex
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from sluicegate.control.access import tokens
from sluicegate.control.embedded import EmbeddedPostgres, EmbeddedServerError, EmbeddedValkey
from sluicegate.control.embedded.ports import LOOPBACK, is_free
from sluicegate.control.embedded.process import PATIENCE_S, ServerProcess, start_on_a_port
from sluicegate.control.publishing import signing_key
from sluicegate.control.store import grants, migrate
from sluicegate.control.store.database import Database
from sluicegate.schemas import settings
from sluicegate.schemas.errors import InvalidSetting, NotFound, Refused

_ANSWER_S = 10.0
"""On a busy machine the first answer takes a while; one that is given up is asked for again, and takes it again."""
_LOOK_EVERY_S = 0.02
_FOR_WORKERS_TOO = frozenset(setting.name for setting in settings.ALL if settings.WORKER in setting.readers)
BROKER_DATABASE = 1
CONTROL_ROLE = "sluicegate_control"


class Stack:
    """Postgres, Valkey and the control plane on `state_dir`, whose data outlive it. A context manager.

    `durable=False` gives up fsync in Postgres (tests). `actor` names the owner of the token that `environ`
    carries; `overrides` are further SLUICEGATE_* settings of the control plane. At most one runs on a
    directory: a second is Refused. Methods raise EmbeddedServerError (an Unavailable) where a part fails.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        durable: bool = True,
        actor: str = "owner",
        overrides: Mapping[str, str] | None = None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.actor = actor
        self._overrides = dict(overrides or {})
        ports = self._ports_of_last_run()
        self.postgres = EmbeddedPostgres(self.state_dir / "postgres", port=ports.get("postgres"), durable=durable)
        self.valkey = EmbeddedValkey(self.state_dir / "valkey", port=ports.get("valkey"))
        self._port = ports.get("control")
        self._control: ServerProcess | None = None
        self._lock: int | None = None
        self._public_key = ""
        self._cursor_keys = ""
        self._token = ""

    @property
    def url(self) -> str:
        """Where the control plane answers. Known once it has been started."""
        if self._port is None:
            raise EmbeddedServerError("the control plane has no address before it is started")
        return f"http://{LOOPBACK}:{self._port}"

    @property
    def environ(self) -> dict[str, str]:
        """The settings that workers and commands need to join, the owner's token included."""
        return {
            **self._shared,
            settings.URL.name: self.url,
            settings.TOKEN.name: self._token,
            settings.CURSOR_KEYS.name: self._cursor_keys,
            settings.STATE_DIR.name: str(self.state_dir),
        }

    @property
    def control_environ(self) -> dict[str, str]:
        """The settings that the control plane itself reads: the database and the private key among them."""
        return {
            **self._shared,
            **self._overrides,
            settings.DATABASE_URL.name: self.postgres.url_as(CONTROL_ROLE),
            settings.SIGNING_KEY_FILE.name: str(self._key_file),
            settings.BIND.name: f"{LOOPBACK}:{self._port}",
            settings.STATE_DIR.name: str(self.state_dir),
        }

    @property
    def control_pid(self) -> int:
        """Of the running control plane."""
        if not (self._control and self._control.is_running):
            raise EmbeddedServerError("the control plane is not running")
        return self._control.pid

    @property
    def env_file(self) -> Path:
        """What another shell sources to join."""
        return self.state_dir / "env"

    @property
    def control_log(self) -> Path:
        """Where the control plane's output goes."""
        return self.state_dir / "control.log"

    def start(self) -> None:
        """Return once everything answers. Whatever fails, nothing of it is left running."""
        self._take_lock()
        try:
            self.postgres.start()
            self.valkey.start()
            self._make_keys()
            migrate.upgrade(self.postgres.url)
            grants.create_role(self.postgres.url, CONTROL_ROLE)
            grants.grant(self.postgres.url, CONTROL_ROLE)
            self._token = self._owners_token()
            self.start_control()
            self._write_files()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop everything in order: the control plane, Valkey, Postgres. Harmless where nothing runs."""
        try:
            self.stop_control()
        finally:
            try:
                self.valkey.stop()
            finally:
                self.postgres.stop()
                self._drop_lock()

    def start_control(self) -> None:
        """Start the control plane and return once it is ready. Nothing happens where it runs already."""
        if self._control and self._control.is_running:
            return
        self._control, self._port = start_on_a_port(
            self._spawn_control,
            lambda port, server: self._is_ready(),
            PATIENCE_S,
            wanted=self._port,
            is_fixed=False,
        )

    def _spawn_control(self, port: int) -> ServerProcess:
        self._port = port
        # By SIGKILL where we are killed: it keeps nothing that is not in Postgres.
        return ServerProcess(
            [sys.executable, "-P", "-m", "sluicegate.control.cli", "serve"],
            self.control_log,
            signal.SIGKILL,
            environ=self._child_environ(),
        )

    def stop_control(self) -> None:
        """Stop the control plane in order."""
        if self._control:
            self._control.stop(signal.SIGTERM)

    def kill_control(self) -> None:
        """End the control plane at once, as a crash would."""
        if self._control:
            self._control.stop(signal.SIGKILL)

    def lost_part(self) -> str | None:
        """The name of a part that has ended by itself; None while all run."""
        for name, part in (("Postgres", self.postgres), ("Valkey", self.valkey)):
            try:
                _ = part.pid
            except EmbeddedServerError:
                return name
        return None if self._control and self._control.is_running else "the control plane"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _shared(self) -> dict[str, str]:
        valkey = self.valkey.url.rpartition("/")[0]
        return {
            **{name: value for name, value in self._overrides.items() if name in _FOR_WORKERS_TOO},
            settings.REDIS_URL.name: f"{valkey}/0",
            settings.BROKER_URL.name: f"{valkey}/{BROKER_DATABASE}",
            settings.PUBLIC_KEYS.name: self._public_key,
            settings.NAMESPACE.name: settings.NAMESPACE.read(self._overrides),
        }

    @property
    def _key_file(self) -> Path:
        return self.state_dir / "signing.key"

    def _child_environ(self) -> dict[str, str]:
        """Ours, without settings meant for another control plane than this one."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("SLUICEGATE_")}
        # The child works in another directory, so a relative entry would mean another place.
        if path := ours.get("PYTHONPATH"):
            ours["PYTHONPATH"] = os.pathsep.join(os.path.abspath(entry) for entry in path.split(os.pathsep))
        return {**ours, **self.control_environ}

    def _is_ready(self) -> bool:
        try:
            answer = httpx.get(f"{self.url}/readyz", timeout=_ANSWER_S, trust_env=False)
        except httpx.HTTPError:
            time.sleep(_LOOK_EVERY_S)
            return False
        # Another process may have taken the port: then our child ends, and `wait_until` says so.
        return answer.is_success

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        try:
            self.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Keys and tokens lie here: a user's `git add .` must not take them along.
            (self.state_dir / ".gitignore").write_text("*\n")
            lock = os.open(self.state_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InvalidSetting(
                settings.STATE_DIR.name, f"{self.state_dir} cannot be used: {error.strerror}"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise Refused(f"another `sluicegate up` runs on {self.state_dir}: stop it first") from None
        self._lock = lock

    def _drop_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_keys(self) -> None:
        is_new = not self._key_file.exists()
        if is_new:
            signing_key.create(self._key_file)
        self._public_key = signing_key.public_of(self._key_file)
        file = self.state_dir / "cursor.keys"
        if not file.exists():
            # In the directory of an earlier version tasks may wait whose cursors have no seal: they go on from these.
            _write_private(file, secrets.token_urlsafe(32) + ("" if is_new else f",{settings.UNSIGNED}") + "\n")
        self._cursor_keys = file.read_text().strip()

    def _owners_token(self) -> str:
        """The stored token where the database still knows it as this actor's; else a new one."""
        file = self.state_dir / "owner.json"
        known = _read_json(file)
        former = str(known.get("actor", ""))
        if former == self.actor and self._is_known(str(known.get("token", ""))):
            return str(known["token"])
        for name in {former, self.actor} - {""}:
            with suppress(NotFound):  # the usual case: there was none
                tokens.revoke(self.postgres.url, name)
        token = tokens.create(self.postgres.url, self.actor, "operator")
        _write_private(file, json.dumps({"actor": self.actor, "token": token}))
        return token

    def _is_known(self, token: str) -> bool:
        database = Database(self.postgres.url)
        try:
            with database.transaction() as connection:
                caller = tokens.find(connection, tokens.digest_of(token))
        finally:
            database.close()
        return caller is not None and caller.name == self.actor

    def _ports_of_last_run(self) -> dict[str, int]:
        """Those of them that are free now."""
        found = _read_json(self.state_dir / "ports.json")
        return {name: port for name, port in found.items() if isinstance(port, int) and is_free(port)}

    def _write_files(self) -> None:
        ports = {
            "postgres": httpx.URL(self.postgres.url).port,
            "valkey": httpx.URL(self.valkey.url).port,
            "control": self._port,
        }
        _write_private(self.state_dir / "ports.json", json.dumps(ports))
        _write_private(self.state_dir / "control.env", _exports(self.control_environ))
        _write_private(self.state_dir / "database.env", _exports({settings.DATABASE_URL.name: self.postgres.url}))
        _write_private(self.env_file, _exports(self.environ))


def _exports(environ: Mapping[str, str]) -> str:
    """Lines that any POSIX shell can source, whatever the values contain."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(environ.items()))


def _write_private(path: Path, text: str) -> None:
    """Replace `path` as a whole, readable by its owner alone from its first byte."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _read_json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
