"""Governors over REST: `Client.governors`.

GET    /api/governors                           Governors.all
GET    /api/governors/{kind}/{name}             Governors.one
PUT    /api/governors/{kind}/{name}             Governors.put
DELETE /api/governors/{kind}/{name}             Governors.delete
POST   /api/governors/{kind}/{name}/override    Governors.override
DELETE /api/governors/{kind}/{name}/override    Governors.end_override
POST   /api/governors/budget/{name}/adjust      Governors.adjust
POST   /api/governors/{kind}/test               Governors.rehearse
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from sluicegate.control.client.reply import Reply
from sluicegate.schemas.api.base import Wire
from sluicegate.schemas.api.governors import (
    AdjustAnswer,
    DeletedAnswer,
    GovernorAnswer,
    GovernorBody,
    GovernorsAnswer,
    RehearseAnswer,
)

B = TypeVar("B", bound=Wire)
PATH = "/api/governors"


class Asks(Protocol):
    """One request and its answer, as a body of `schemas.api`; raises errors of `schemas.errors`."""

    def __call__(
        self, method: str, path: str, kind: type[B], json: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply[B]: ...


class Governors:
    """What holds by itself, read and changed. A change names the `version` that was seen; None: it is to be new."""

    def __init__(self, ask: Asks) -> None:
        self._ask = ask

    def all(self) -> Reply[GovernorsAnswer]:
        """By kind and name."""
        return self._ask("GET", PATH, GovernorsAnswer)

    def one(self, kind: str, name: str) -> Reply[GovernorBody]:
        """NotFound where there is none."""
        return self._ask("GET", _path(kind, name), GovernorBody)

    def put(
        self, kind: str, name: str, spec: Any, *, reason: str, version: int | None, is_dry: bool = False
    ) -> Reply[GovernorAnswer]:
        """Refused where another version stands there, or a file manages it."""
        asked = {"spec": spec, "reason": reason} | ({"dryRun": True} if is_dry else {})
        return self._ask("PUT", _path(kind, name), GovernorAnswer, json=asked, headers=_seen(version))

    def delete(self, kind: str, name: str, *, reason: str, version: int) -> Reply[DeletedAnswer]:
        """As `put`."""
        return self._ask("DELETE", _path(kind, name), DeletedAnswer, json={"reason": reason}, headers=_seen(version))

    def override(self, kind: str, name: str, *, reason: str, for_s: float) -> Reply[GovernorBody]:
        """Refused where it holds nothing."""
        asked = {"reason": reason, "forS": for_s}
        return self._ask("POST", f"{_path(kind, name)}/override", GovernorBody, json=asked)

    def end_override(self, kind: str, name: str, *, reason: str) -> Reply[GovernorBody]:
        """Refused where nobody goes past it."""
        return self._ask("DELETE", f"{_path(kind, name)}/override", GovernorBody, json={"reason": reason})

    def adjust(self, name: str, *, amount: str, reason: str, key: str) -> Reply[AdjustAnswer]:
        """Once for each `key`."""
        asked = {"amount": amount, "reason": reason, "key": key}
        return self._ask("POST", f"{_path('budget', name)}/adjust", AdjustAnswer, json=asked)

    def rehearse(self, kind: str, *, spec: Any, at: str | None, reading: Mapping[str, Any]) -> Reply[RehearseAnswer]:
        """What would be decided; changes nothing."""
        asked = {"spec": spec, "at": at, "reading": dict(reading)}
        return self._ask("POST", f"{PATH}/{quote(kind, safe='')}/test", RehearseAnswer, json=asked)


def _path(kind: str, name: str) -> str:
    return f"{PATH}/{quote(kind, safe='')}/{quote(name, safe='')}"


def _seen(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}
