"""Scopes: what a hold applies to, and the subjects it is matched against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from sluicegate.schemas.errors import InvalidInput

MAX_NAME_CHARS = 255
_SHAPES = "global, queue:NAME, host:NAME, worker:NODENAME, task:NAME or label:KEY=VALUE"


class ScopeKind(StrEnum):
    """What a scope names; the word before its colon, and in `Beat.enforces`."""

    GLOBAL = "global"
    QUEUE = "queue"
    HOST = "host"
    WORKER = "worker"
    TASK = "task"
    LABEL = "label"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One wish to start one task: everything a scope can match. A field left None matches only `global`."""

    queue: str | None = None
    host: str | None = None
    worker: str | None = None
    task: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, order=True)
class Scope:
    """What a hold applies to. `str(scope)` is its one spelling; `Scope.parse` is the inverse."""

    kind: ScopeKind
    name: str = ""

    @classmethod
    def parse(cls, text: object, field: str = "scope") -> Self:
        """The scope that `text` spells; raises InvalidInput naming `field` and the accepted shapes."""
        if not isinstance(text, str) or not text:
            raise InvalidInput(field, f"{text!r} is not a scope: use {_SHAPES}")
        word, colon, name = text.partition(":")
        try:
            kind = ScopeKind(word)
        except ValueError:
            raise InvalidInput(field, f"{text!r} is not a scope: use {_SHAPES}") from None
        if kind is ScopeKind.GLOBAL:
            if colon:
                raise InvalidInput(field, f"{text!r}: global takes no name")
            return cls(kind)
        if not name:
            raise InvalidInput(field, f"{text!r} names nothing: use {_SHAPES}")
        if len(name) > MAX_NAME_CHARS:
            raise InvalidInput(field, f"the name has {len(name)} characters, at most {MAX_NAME_CHARS} are allowed")
        if name != name.strip() or not name.isprintable():
            raise InvalidInput(field, f"{text!r}: a name has no control characters and no space at its ends")
        if any(c in name for c in "*?"):
            raise InvalidInput(field, f"{text!r}: wildcards are not supported, name one {kind}")
        if kind is ScopeKind.LABEL:
            key, equals, value = name.partition("=")
            if not (key and equals and value):
                raise InvalidInput(field, f"{text!r}: a label is KEY=VALUE")
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)

    def matches(self, subject: Subject) -> bool:
        """Is `subject` within this scope? A field that it does not tell is within none but `global`."""
        match self.kind:
            case ScopeKind.GLOBAL:
                return True
            case ScopeKind.QUEUE:
                return subject.queue == self.name
            case ScopeKind.HOST:
                return subject.host == self.name
            case ScopeKind.WORKER:
                return subject.worker == self.name
            case ScopeKind.TASK:
                return subject.task == self.name
            case ScopeKind.LABEL:
                key, _, value = self.name.partition("=")
                return subject.labels.get(key) == value


GLOBAL = Scope(ScopeKind.GLOBAL)

MAX_LABELS = 64


def parse_labels(text: str, field: str) -> dict[str, str]:
    """`KEY=VALUE,KEY=VALUE` as a worker declares its labels; raises InvalidInput naming `field`.

    Each label must be one that a `label:` scope can name; no key twice.
    """
    labels: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        # The scope's own rules: what no scope can name, no worker may be called.
        name = Scope.parse(f"{ScopeKind.LABEL}:{part}", field).name
        key, _, value = name.partition("=")
        if key in labels:
            raise InvalidInput(field, f"the label {key!r} is given twice")
        labels[key] = value
    if len(labels) > MAX_LABELS:
        raise InvalidInput(field, f"{len(labels)} labels, at most {MAX_LABELS} are allowed")
    return labels
