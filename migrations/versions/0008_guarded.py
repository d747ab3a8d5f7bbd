"""The chain's lock becomes a row that only the owner can lock; the publications can be raised, and not set at will.

Until now any role that can log in could stop all changes: an advisory lock is open to everyone who knows its number.
And the control plane's role could set the counter of publications to its end, after which nothing can be published.

Code of revision 0007 knows neither, and goes on without: its changes are chained by the same trigger, and it may set
the counter until `db grant` is run again.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None
usable_from = "0006"

LOCK = 7_283_114_905_216_336
"""The advisory lock of before (0002)."""

# As in 0002, but for the lock. It is held to the end of the transaction, after its commit can be seen: positions are
# in commit order. The look for the last event comes after it, as a statement of its own, and so sees what the one
# before committed.
_CHAIN_EVENT = """
create or replace function {schema}.sluicegate_chain_event() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    last record;
begin
    {takes_the_lock}
    select position, hash into last from {schema}.control_events order by position desc limit 1;
    new.position := coalesce(last.position, 0) + 1;
    new.previous_hash := coalesce(last.hash, decode(repeat('00', 32), 'hex'));
    new.hash := {schema}.sluicegate_event_hash(new);
    return new;
end $$
"""
_BY_ROW = """perform 1 from {schema}.audit_chain for update;
    if not found then
        raise exception 'audit_chain has lost its row: insert into audit_chain values (true)';
    end if;"""
_BY_NUMBER = "perform pg_advisory_xact_lock({lock});"

# SECURITY: runs as its owner, so that the control plane needs no right to set the counter. 2^31 is more than a lost
# backup can miss at any pace, and so little that nobody comes to the end of a bigint by it.
_RAISE = """
create function {schema}.sluicegate_raise_publications(number bigint) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    last bigint;
begin
    select last_value into last from {schema}.snapshot_publications;
    if number - 2147483648 > last then
        raise exception using message = 'publication ' || number || ' is too far ahead of ' || last
            || ': somebody set the counter (docs/security.md)';
    end if;
    if number > last then
        perform setval('{schema}.snapshot_publications', number);
    end if;
end $$
"""
# Who could set the counter can raise it, so that nothing is missing until `db grant` is run again.
_AS_GRANTED = """
do $$
declare
    grantee text;
begin
    for grantee in
        select quote_ident(role.rolname)
        from pg_class, aclexplode(relacl) as granted join pg_roles as role on role.oid = granted.grantee
        where pg_class.oid = to_regclass('{schema}.snapshot_publications') and granted.privilege_type = 'UPDATE'
    loop
        execute 'grant execute on function {schema}.sluicegate_raise_publications(bigint) to ' || grantee;
    end loop;
end $$
"""


def upgrade() -> None:
    op.create_table(
        "audit_chain",
        sa.Column("is_the_row", sa.Boolean, nullable=False),
        sa.PrimaryKeyConstraint("is_the_row", name=op.f("pk_audit_chain")),
        sa.CheckConstraint("is_the_row", name=op.f("ck_audit_chain_there_is_one_row")),
    )
    _execute("insert into {schema}.audit_chain values (true)")
    _replace_chain_event(_BY_ROW)
    _execute(_RAISE)
    _execute("revoke all on function {schema}.sluicegate_raise_publications(bigint) from public")
    _execute(_AS_GRANTED)


def downgrade() -> None:
    _execute("drop function {schema}.sluicegate_raise_publications(bigint)")
    _replace_chain_event(_BY_NUMBER)
    op.drop_table("audit_chain")


def _replace_chain_event(takes_the_lock: str) -> None:
    # Who inserts by the one lock must be through before anybody does by the other. Reading goes on.
    _execute("lock table {schema}.control_events in share row exclusive mode")
    _execute(_CHAIN_EVENT.replace("{takes_the_lock}", takes_the_lock))


def _execute(statement: str) -> None:
    """`statement` on the schema that the tables are in: what runs later must not depend on its caller's path."""
    connection = op.get_bind()
    schema = connection.execute(sa.text("select quote_ident(current_schema())")).scalar_one()
    connection.exec_driver_sql(statement.format(schema=schema, lock=LOCK))
