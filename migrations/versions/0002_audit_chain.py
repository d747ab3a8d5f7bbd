"""The chain over the audit: each event gets the next position and a hash over itself and the one before it.

docs/decisions/0012 says why it is this chain, and what it proves. What is here once is told again in
`control.audit.chain`, in another language: the two must come to the same hash, and a test makes them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
usable_from = "0002"

# The canonical form: each field as LENGTH:TEXT (octets of UTF-8) or `-` for null, parted by commas. Lengths, so
# that no text can pass for another's end; the form's own name first, so that a later form cannot pass for this one.
EVENT_HASH = """
create function {schema}.sluicegate_event_hash(event {schema}.control_events) returns bytea
language sql stable set search_path = pg_catalog, pg_temp as $$
    select sha256(convert_to(
        string_agg(coalesce(octet_length(convert_to(field, 'UTF8')) || ':' || field, '-'), ',' order by place), 'UTF8'))
    from unnest(array[
        'sluicegate-event-1',
        event.position::text,
        encode(event.previous_hash, 'hex'),
        event.id::text,
        event.namespace,
        event.epoch::text,
        event.version::text,
        event.action,
        event.outcome,
        event.scope,
        event.cause,
        event.source,
        event.mode,
        event.reason,
        event.actor,
        event.hold_id::text,
        event.details::text,
        extract(epoch from event.created_at)::text
    ]) with ordinality as fields (field, place)
$$
"""
# SECURITY: runs as its owner, so that who may only insert can neither choose a hash nor needs to read one; names
# every object with its schema, so that a temporary table of the caller's cannot take the place of ours.
# The lock is held to the end of the transaction, after its commit can be seen: positions are in commit order. The
# look for the last event comes after it, as a statement of its own, and so sees what the one before committed.
CHAIN_EVENT = """
create function {schema}.sluicegate_chain_event() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    last record;
begin
    perform pg_advisory_xact_lock({lock});
    select position, hash into last from {schema}.control_events order by position desc limit 1;
    new.position := coalesce(last.position, 0) + 1;
    new.previous_hash := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    new.hash := {schema}.sluicegate_event_hash(new);
    return new;
end $$
"""
CHAIN_TRIGGER = """
create trigger control_events_chain before insert on {schema}.control_events
    for each row execute function {schema}.sluicegate_chain_event()
"""
# In the order of their ids: the only one that there is for events of before the chain.
CHAIN_WHAT_IS_THERE = """
do $$
declare
    event {schema}.control_events;
    place bigint := 0;
    before bytea := decode(repeat('00', 32), 'hex');
begin
    for event in select * from {schema}.control_events order by id loop
        place := place + 1;
        event.position := place;
        event.previous_hash := before;
        before := {schema}.sluicegate_event_hash(event);
        update {schema}.control_events
            set position = place, previous_hash = event.previous_hash, hash = before where id = event.id;
    end loop;
end $$
"""
LOCK = 7_283_114_905_216_336
"""An arbitrary number, the same for all who insert events into one database."""


def upgrade() -> None:
    for name, kind in (("position", sa.BigInteger), ("previous_hash", sa.LargeBinary), ("hash", sa.LargeBinary)):
        op.add_column("control_events", sa.Column(name, kind))
    _execute(EVENT_HASH)
    _execute(CHAIN_EVENT)
    # Nobody sees the table between these two: changing it has locked it to the end of the migration.
    _execute("alter table {schema}.control_events disable trigger control_events_append_only")
    _execute(CHAIN_WHAT_IS_THERE)
    _execute("alter table {schema}.control_events enable always trigger control_events_append_only")
    for name in ("position", "previous_hash", "hash"):
        op.alter_column("control_events", name, nullable=False)
    op.create_index("uq_control_events_position", "control_events", ["position"], unique=True)
    _execute(CHAIN_TRIGGER)
    _execute("alter table {schema}.control_events enable always trigger control_events_chain")
    # Functions are open to everyone by default; a trigger needs no right to its own.
    for function in ("sluicegate_event_hash", "sluicegate_chain_event"):
        _execute("revoke all on function {schema}." + function + " from public")


def downgrade() -> None:
    _execute("drop trigger control_events_chain on {schema}.control_events")
    _execute("drop function {schema}.sluicegate_chain_event()")
    _execute("drop function {schema}.sluicegate_event_hash(event {schema}.control_events)")
    op.drop_index("uq_control_events_position", "control_events")
    for name in ("hash", "previous_hash", "position"):
        op.drop_column("control_events", name)


def _execute(statement: str) -> None:
    """`statement` on the schema that the tables are in: what runs later must not depend on its caller's path."""
    connection = op.get_bind()
    schema = connection.execute(sa.text("select quote_ident(current_schema())")).scalar_one()
    connection.exec_driver_sql(statement.format(schema=schema, lock=LOCK))
