"""`/api/audit`: who changed what, when and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request

from sluicegate.control import spelling
from sluicegate.control.access.tokens import Right
from sluicegate.control.http.guard import Guard, GuardedRouter, parts_of, reads
from sluicegate.schemas.api.audit import AuditAnswer, AuditQuery

router = GuardedRouter(tags=["audit"])


@router.guarded("GET", "/audit", Guard(Right.VIEWER, reads))
def search_audit(request: Request, query: Annotated[AuditQuery, Query()]) -> AuditAnswer:
    """The audit events that match, newest first. `since` is included, `until` is not."""
    return spelling.page_of(parts_of(request).audit.search(spelling.query_of(query)))
