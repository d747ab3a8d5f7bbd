"""Where a Redis is: at an address, or wherever the sentinels that watch it say.

Sentinels are written as Celery's `broker_url` has them, so that one text serves both:

    sentinel://[USER:PASSWORD@]HOST[:PORT][/DATABASE];sentinel://…

User, password and database are those of the Redis itself, not of the sentinels. The name by which the sentinels know it
is a setting of its own: kombu reads none from the URL, and breaks on one that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from sluicegate.schemas.errors import InvalidSetting
from sluicegate.schemas.settings import Setting

SENTINEL_PORT = 26379
_SCHEME = "sentinel://"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """Those to ask, each as (host, port), and what for: the master called `master_name`, and how to sign in there."""

    addresses: tuple[tuple[str, int], ...]
    master_name: str
    database: int = 0
    username: str | None = None
    password: str | None = None


Place = str | Sentinels
"""A URL as redis-py takes it, or whom to ask."""


def place_of(url: str, setting: Setting[str], master_name: str | None, name_setting: Setting[str]) -> Place:
    """Where `url`, which `setting` gave, leads; `name_setting` is what gave `master_name`.

    Raises InvalidSetting, which never shows the URL: it may hold a password.
    """
    if not url.startswith(_SCHEME):
        return url
    parts = [_split(entry.strip(), setting) for entry in url.split(";") if entry.strip()]
    if not master_name:
        raise InvalidSetting(name_setting.name, f"is not set: {setting.name} names sentinels, and not which master")
    return Sentinels(
        addresses=tuple(dict.fromkeys((part.hostname or "", part.port or SENTINEL_PORT) for part in parts)),
        master_name=master_name,
        database=int(_one(setting, "database", (part.path.strip("/") for part in parts)) or 0),
        username=_one(setting, "user", (unquote(part.username or "") for part in parts)),
        password=_one(setting, "password", (unquote(part.password or "") for part in parts)),
    )


def _split(entry: str, setting: Setting[str]) -> SplitResult:
    form = "is not of the form sentinel://HOST:PORT/DATABASE;sentinel://HOST:PORT/DATABASE"
    try:
        part = urlsplit(entry)
        if not entry.startswith(_SCHEME) or not part.hostname or part.port == 0:
            raise InvalidSetting(setting.name, form)
    except ValueError:
        raise InvalidSetting(setting.name, form) from None
    if (database := part.path.strip("/")) and not database.isdecimal():
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
