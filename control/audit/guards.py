"""What guards the audit in the database, and whether it is what the migrations made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, text

_ROW, _BEFORE, _INSERT, _DELETE, _UPDATE, _TRUNCATE, _INSTEAD = 1, 2, 4, 8, 16, 32, 64
"""The bits of `pg_trigger.tgtype`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """A trigger on `control_events`: when it fires (`tgtype`), and what it calls."""

    trigger: str
    fires: int
    calls: str


GUARDS: Final = (
    Guard(
        trigger="control_events_append_only",
        fires=_BEFORE | _UPDATE | _DELETE | _TRUNCATE,
        calls="sluicegate_refuse_change",
    ),
    Guard(trigger="control_events_chain", fires=_BEFORE | _ROW | _INSERT, calls="sluicegate_chain_event"),
)
FUNCTIONS: Final[Mapping[str, frozenset[str]]] = {
    "sluicegate_refuse_change": frozenset({"69542f7324e69599842e4c7c6919f752f001692ec27f127aa1c655e155d3d868"}),
    "sluicegate_event_hash": frozenset({"3222782fc06fa6adf4bda7e3cd89cdf407f94dac298962cb6a3f54a6e5de57f5"}),
    "sluicegate_chain_event": frozenset(
        {
            "f961acd2f56f84e39ba58f19b50a214bda6d2f91ed6d80b50d429ad5590def69",  # 0002: an advisory lock
            "4308df1609df3570f98c227abe0e6736df407f097ffb7b6320a0f89df8bac946",  # 0008: a row
        }
    ),
}
"""What the guards call, and the digests (`digest_of`) of what the migrations made of it."""

# In the schema of the table, not by the caller's path: the same names elsewhere guard nothing.
_TABLE = text(
    "select c.relkind, c.relrowsecurity, quote_ident(n.nspname) as schema,"
    " array(select rulename::text from pg_rewrite where ev_class = c.oid order by 1) as rules"
    " from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass('control_events')"
)
_TRIGGERS = text(
    "select t.tgname, t.tgenabled, t.tgtype, t.tgqual is null and t.tgnargs = 0 and t.tgattr = '' as is_plain,"
    " p.proname, p.pronamespace = c.relnamespace as is_ours"
    " from pg_trigger t join pg_proc p on p.oid = t.tgfoid join pg_class c on c.oid = t.tgrelid"
    " where t.tgrelid = to_regclass('control_events') and not t.tgisinternal order by t.tgname"
)
_FUNCTIONS = text(
    "select p.proname, p.prosrc, l.lanname, p.prosecdef, p.provolatile, p.proconfig"
    " from pg_proc p join pg_language l on l.oid = p.prolang"
    " where p.pronamespace = (select relnamespace from pg_class where oid = to_regclass('control_events'))"
    " and p.proname = any(:names) order by p.proname"
)


def fault(connection: Connection) -> str | None:
    """What is not as the migrations made it, of all that guards the events; None where all is. Reads only."""
    table = connection.execute(_TABLE).mappings().one()
    return (
        _fault_of_table(table)
        or _fault_of_triggers(connection.execute(_TRIGGERS).mappings().all())
        or _fault_of_functions(connection.execute(_FUNCTIONS, {"names": list(FUNCTIONS)}).mappings().all(), table)
    )


def digest_of(function: RowMapping, schema: str) -> str:
    """The SHA-256 (hex) over what a function is and how it runs, wherever its schema is called what."""
    said = {
        "language": function["lanname"],
        "definer": function["prosecdef"],
        "volatile": function["provolatile"],
        "config": function["proconfig"],
        "body": function["prosrc"].replace(f"{schema}.", "{schema}."),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _fault_of_table(table: RowMapping) -> str | None:
    if table["relkind"] != "r" or table["rules"]:
        return "control_events is no plain table: what is written to it may go elsewhere"
    if table["relrowsecurity"]:
        return "row security is on for control_events: rows may be hidden from whoever reads it"
    return None


def _fault_of_triggers(found: Iterable[RowMapping]) -> str | None:
    known = {guard.trigger: guard for guard in GUARDS}
    on: set[str] = set()
    for row in found:
        guard = known.get(row["tgname"])
        if guard is None:
            # One that comes after the insert cannot change what is inserted.
            if row["tgtype"] & (_BEFORE | _INSTEAD):
                return f"the trigger {row['tgname']} is not ours, and comes before what guards them"
            continue
        is_as_made = (
            (row["tgtype"], row["proname"]) == (guard.fires, guard.calls) and row["is_plain"] and row["is_ours"]
        )
        if not is_as_made:
            return f"the trigger {guard.trigger} is not the one that `db upgrade` made"
        if row["tgenabled"] == "A":
            on.add(guard.trigger)
    return next((f"the trigger {guard.trigger} is not on" for guard in GUARDS if guard.trigger not in on), None)


def _fault_of_functions(found: Iterable[RowMapping], table: RowMapping) -> str | None:
    digests: dict[str, list[str]] = {}
    for row in found:
        digests.setdefault(row["proname"], []).append(digest_of(row, table["schema"]))
    for name, known in FUNCTIONS.items():
        match digests.get(name, []):
            case [digest] if digest in known:
                pass
            case _:
                return f"the function {name} is not the one that `db upgrade` made"
    return None
