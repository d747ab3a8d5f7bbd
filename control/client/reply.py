"""What the client hands back: a typed body, beside the very JSON that the control plane sent.

A field that this client does not know is ignored, so that an older client can read a newer control plane.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sluicegate.schemas.api.base import Wire

B = TypeVar("B", bound=Wire)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[B]):
    """One successful answer: `body` for code, `raw` for `--json` (nothing dropped, nothing respelled)."""

    body: B
    raw: dict[str, Any]
