"""Where a Redis is: at an address, behind a socket, or wherever the sentinels that watch it say.

One text serves Celery and us, in whichever of the two spellings it was written:

    redis://  rediss://  unix://         redis-py's
    redis://  rediss://  redis+socket:// kombu's, which Celery takes as `broker_url`
    sentinel://HOST:PORT/0;sentinel://…  kombu's; user, password and database are those of the Redis itself

The name by which the sentinels know it is a setting of its own: kombu reads none from the URL, and breaks on one that
has it. docs/settings.md tells which options may stand behind the `?`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.settings import Setting

REDIS_PORT = 6379
SENTINEL_PORT = 26379
SOCKET_PATH_BYTES = 107
"""The longest path that the kernel takes for a socket."""
SCHEMES = ("redis", "rediss", "unix", "redis+socket", "sentinel")

_FORM = "is not a URL such as redis://HOST:PORT/0 (a password's `/`, `?`, `#`, `@` and `:` are written as %2F …)"
_SENTINEL = "sentinel"
_SENTINELS_FORM = "is not of the form sentinel://HOST:PORT/DATABASE;sentinel://HOST:PORT/DATABASE"
_DATABASE = re.compile(r"[0-9]{1,9}")
_WORD = re.compile(r"[a-z_]{1,40}")
_IMPORTABLE = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)+", re.ASCII)
_PATIENCE = ("socket_timeout", "socket_connect_timeout", "socket_keepalive", "retry_on_timeout", "retry_on_error")
_READING = ("socket_read_size", "decode_responses", "encoding", "encoding_errors", "legacy_responses")
_OTHERS = ("max_connections", "health_check_interval", "lib_name", "lib_version")
_KOMBUS = ("heartbeat", "connect_timeout", "insist", "login_method")
_IGNORED = frozenset((*_PATIENCE, *_READING, *_OTHERS, *_KOMBUS))
"""What redis-py or kombu takes, and is not obeyed: how long we wait and how we read is not for a URL to say."""
_VERIFY = {"none": "none", "optional": "optional", "required": "required"}
_VERIFY |= {f"cert_{word}": word for word in _VERIFY}
_YES_NO = {"true": True, "1": True, "yes": True, "t": True, "y": True}
_YES_NO |= {"false": False, "0": False, "no": False, "f": False, "n": False}
_TLS_TEXTS = {
    "ssl_ca_certs": "ca_file",
    "ssl_ca_path": "ca_folder",
    "ssl_ca_data": "ca_data",
    "ssl_certfile": "certificate_file",
    "ssl_keyfile": "key_file",
    "ssl_password": "key_password",
    "ssl_ciphers": "ciphers",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """`verify`: none, optional or required. `checks_host` None leaves it to redis-py; the rest None where not said."""

    verify: str
    checks_host: bool | None = None
    ca_file: str | None = None
    ca_folder: str | None = None
    ca_data: str | None = None
    certificate_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    ciphers: str | None = None
    min_version: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One Redis: at `host` and `port`, or behind the socket at `path`. `protocol`: RESP 2 or 3, None where not said."""

    host: str = "localhost"
    port: int = REDIS_PORT
    path: str | None = None
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    client_name: str | None = None
    protocol: int | None = None
    credential_provider: str | None = None
    """The importable name of a class of redis-py's CredentialProvider, as kombu has it."""
    tls: Tls | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Those to ask, each as (host, port), and what for: the master called `master_name`, and how to sign in there."""

    addresses: tuple[tuple[str, int], ...]
    master_name: str
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)


Place = Server | Sentinels


def is_redis(url: str) -> bool:
    """Is it a Redis that `url` names, rather than another broker?"""
    return _scheme(url) in SCHEMES


def place_of(
    url: str,
    setting: Setting[str],
    master_name: str | None,
    name_setting: Setting[str],
    *,
    unsaid_verify: str = "required",
) -> Place:
    """Where `url`, which `setting` gave, leads; `name_setting` is what gave `master_name`.

    `unsaid_verify`: what is verified of a `rediss://` that does not say it; redis-py verifies, kombu does not.
    Raises InvalidSetting, which never shows the URL: it may hold a password.
    """
    scheme = url.partition("://")[0]
    # A `;` alone may be part of a password.
    for number, entry in enumerate(re.split(rf";\s*{re.escape(scheme)}://", url)):
        refuse_torn(f"{scheme}://{entry}" if number else entry, setting.name)
    if _scheme(url) != _SENTINEL:
        return server_at(url, setting.name, unsaid_verify=unsaid_verify)
    parts = [_split_sentinel(entry.strip(), setting) for entry in url.split(";") if entry.strip()]
    if not master_name:
        raise InvalidSetting(name_setting.name, f"is not set: {setting.name} names sentinels, and not which master")
    return Sentinels(
        addresses=tuple(dict.fromkeys((part.hostname or "", part.port or SENTINEL_PORT) for part in parts)),
        master_name=master_name,
        database=int(_one(setting, "database", (part.path.strip("/") for part in parts)) or 0),
        username=_one(setting, "user", (unquote(part.username or "") for part in parts)),
        password=_one(setting, "password", (unquote(part.password or "") for part in parts)),
    )


def server_at(url: str, setting_name: str, *, unsaid_verify: str = "required") -> Server:
    """As `place_of`, for one server. Raises InvalidSetting naming `setting_name`."""
    scheme = _scheme(url)
    if scheme not in SCHEMES or scheme == _SENTINEL:
        raise InvalidSetting(setting_name, _FORM)
    try:
        # Under a scheme that every Python splits in one way.
        part = urlsplit(f"redis{url[len(scheme) :]}")
        host, port = unquote(part.hostname or ""), part.port
        is_one = url.isprintable() and not part.fragment and port != 0
    except ValueError:
        raise InvalidSetting(setting_name, _FORM) from None
    if not is_one or not _is_host(host):
        raise InvalidSetting(setting_name, _FORM)
    return _Reading(setting_name, scheme, part, _options_of(part, setting_name)).server(host, port, unsaid_verify)


@dataclass(frozen=True, slots=True)
class _Reading:
    """One URL, split. `options`: what stood behind the `?`; each is taken out where it is read."""

    setting_name: str
    scheme: str
    part: SplitResult
    options: dict[str, str]

    def server(self, host: str, port: int | None, unsaid_verify: str) -> Server:
        """Raises InvalidSetting where an option is left."""
        has_socket = self.scheme in ("unix", "redis+socket")
        where: dict[str, Any] = {"path": self._path(host)} if has_socket else {"port": port or REDIS_PORT}
        if not has_socket and host:
            where["host"] = host
        username, password = self.options.pop("username", None), self.options.pop("password", None)
        provider = self.options.pop("credential_provider", None)
        if provider is not None and not _IMPORTABLE.fullmatch(provider):
            raise self._refuse("has an option `credential_provider` that is not MODULE.CLASS")
        server = Server(
            **where,
            database=self._database(has_socket),
            # Whoever is asked for them does not get them from here, as kombu has it.
            username=None if provider else unquote(self.part.username or "") or username,
            password=None if provider else unquote(self.part.password or "") or password,
            client_name=self.options.pop("client_name", None),
            protocol=self._protocol(),
            credential_provider=provider,
            tls=None if has_socket else self._tls(unsaid_verify),
        )
        self._refuse_the_rest()
        return server

    def _refuse(self, message: str) -> InvalidSetting:
        return InvalidSetting(self.setting_name, message)

    def _path(self, host: str) -> str:
        path = unquote(self.part.path)
        if host or not path.strip("/"):
            raise self._refuse(f"names no socket: {self.scheme}:///PATH has three slashes")
        if not path.isprintable() or len(path.encode()) > SOCKET_PATH_BYTES:
            raise self._refuse(f"names a socket with a path of more than {SOCKET_PATH_BYTES} bytes, or that is none")
        return path

    def _database(self, has_socket: bool) -> int:
        # kombu reads a socket's database here and nowhere else, and no option `db` at all.
        option = "virtual_host" if self.scheme == "redis+socket" else "db"
        text = self.options.pop(option, "")
        if not has_socket and not text:
            text = unquote(self.part.path).strip("/")
        if text and not _DATABASE.fullmatch(text):
            raise self._refuse("names a database that is not a number")
        return int(text or 0)

    def _protocol(self) -> int | None:
        text = self.options.pop("protocol", None)
        if text not in (None, "2", "3"):
            raise self._refuse("has an option `protocol` that is neither 2 nor 3")
        return None if text is None else int(text)

    def _tls(self, unsaid_verify: str) -> Tls | None:
        said = {name: self.options.pop(name) for name in tuple(self.options) if name in _TLS_OPTIONS}
        # Of a `redis://` with such options kombu makes TLS, and redis-py nothing at all.
        if self.scheme != "rediss" and not said:
            return None
        verify = _VERIFY.get(said.get("ssl_cert_reqs", unsaid_verify).lower())
        checks_host = said.get("ssl_check_hostname")
        version = said.get("ssl_min_version", "0")
        if verify is None:
            raise self._refuse("has an option `ssl_cert_reqs` that is none of required, optional, none")
        if checks_host is not None and checks_host.lower() not in _YES_NO:
            raise self._refuse("has an option `ssl_check_hostname` that is neither true nor false")
        if not _DATABASE.fullmatch(version):
            raise self._refuse("has an option `ssl_min_version` that is not a number")
        if "ssl_keyfile" in said and "ssl_certfile" not in said:
            raise self._refuse("has an option `ssl_keyfile` and no `ssl_certfile`")
        return Tls(
            verify=verify,
            checks_host=None if checks_host is None else _YES_NO[checks_host.lower()],
            min_version=int(version) or None,
            **{attribute: said[name] for name, attribute in _TLS_TEXTS.items() if name in said},
        )

    def _refuse_the_rest(self) -> None:
        unknown = sorted(self.options.keys() - _IGNORED)
        if not unknown:
            return
        # What looks like an option may be the end of a password with a `?` in it: only a plain word is shown.
        is_plain = "@" not in self.part.query and _WORD.fullmatch(unknown[0])
        named = f"`{unknown[0]}`" if is_plain else "(which is not shown: it may be part of a password)"
        raise self._refuse(f"has an option that is not supported here: {named}")


_TLS_OPTIONS = frozenset(_TLS_TEXTS) | {"ssl_cert_reqs", "ssl_check_hostname", "ssl_min_version"}


def _options_of(part: SplitResult, setting_name: str) -> dict[str, str]:
    """Those that say something; an empty one is none, for redis-py as for kombu."""
    pairs = parse_qsl(part.query)
    options = dict(pairs)
    if len(options) != len(pairs):
        # redis-py would take the first, and kombu the last.
        raise InvalidSetting(setting_name, "has an option twice")
    if not all(text.isprintable() for name, text in pairs if name != "ssl_ca_data"):
        raise InvalidSetting(setting_name, "has an option with a control character in it")
    return options


def _is_host(host: str) -> bool:
    """Can it be looked up at all? What cannot be is a ValueError at each connection. An empty one is a default."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return host.isprintable() and not any(c.isspace() or c in "/?#@" for c in host)


def _scheme(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    return scheme.lower() if separator else ""


def refuse_torn(url: str, setting_name: str) -> None:
    """Raises InvalidSetting where a password's unescaped `/`, `?` or `#` would pass for the end of the host.

    What was before it would be asked for as a host, and stand in errors. An `@` behind the host shows it.
    """
    try:
        part = urlsplit(url)
    except ValueError:
        return  # no URL at all: whoever connects says so, and quotes nothing of it
    behind = part.path + part.query + part.fragment
    if part.netloc and "@" in behind:
        raise InvalidSetting(
            setting_name, "has an `@` behind its host: in a password, write `/`, `?`, `#` and `@` as %2F, %3F, %23, %40"
        )


def _split_sentinel(entry: str, setting: Setting[str]) -> SplitResult:
    try:
        part = urlsplit(entry)
        is_one = _scheme(entry) == _SENTINEL and entry.isprintable() and part.hostname and part.port != 0
    except ValueError:
        raise InvalidSetting(setting.name, _SENTINELS_FORM) from None
    if not is_one or not _is_host(part.hostname or ""):
        raise InvalidSetting(setting.name, _SENTINELS_FORM)
    if (database := part.path.strip("/")) and not _DATABASE.fullmatch(database):
        raise InvalidSetting(setting.name, "names a database that is not a number")
    if part.query or part.fragment:
        raise InvalidSetting(setting.name, "has options behind a `?` or `#`, which sentinels do not have here")
    return part


def _one(setting: Setting[str], what: str, said: Iterable[str]) -> str | None:
    """Where several entries say it, they must say the same."""
    different = {word for word in said if word}
    if len(different) > 1:
        raise InvalidSetting(setting.name, f"names more than one {what}: all its sentinels watch one Redis")
    return next(iter(different), None)


def refuse_other_kinds(hello: Any, setting_name: str) -> None:
    """Raises InvalidSetting where a server's answer to HELLO says that it is none that can be used.

    `hello` is a mapping, or on the older protocol a list of names and values in turn; what is neither says nothing.
    """
    if isinstance(hello, list):
        hello = dict(zip(hello[::2], hello[1::2], strict=False))
    if not isinstance(hello, dict):
        return
    match hello.get(b"mode", hello.get("mode")):
        case b"cluster" | "cluster":
            raise InvalidSetting(
                setting_name,
                "leads to a Redis Cluster, which is not supported: use one server, or one that sentinels watch",
            )
        case b"sentinel" | "sentinel":
            raise InvalidSetting(setting_name, "leads to a sentinel, not to a Redis: write sentinel://HOST:PORT")
