"""Creates and updates the tables of a store in PostgreSQL."""

from __future__ import annotations

from psycopg import AsyncConnection

from mediator.shell.severed import severed_after
from mediator.shell.sqlsession import Row
from mediator.shell.storeschema import MIGRATIONS, for_postgres
from netctl.model.errors import LocalError

LOCK_CLASS = 0x6E657463
"""First half of the store's advisory locks, "netc"; the second half is a hash of the schema."""
MIGRATION_CLASS = LOCK_CLASS + 1
"""First half of the lock for the creation and update of tables."""
MIGRATION_S = 10
"""Longest wait for that lock: mediators that start at once update the tables one by one, in milliseconds."""
LOOK_S = 10.0
"""Longest wait for the tables' version. Whoever restores a backup locks all tables meanwhile."""

_VERSION = "CREATE TABLE IF NOT EXISTS schema_version (one BIGINT PRIMARY KEY CHECK (one = 1), version BIGINT NOT NULL)"


async def migrate(connection: AsyncConnection[Row], name: str) -> None:
    """Create or update the schema; each step is one transaction. Raises LocalError and psycopg's errors."""
    version = await _version(connection)
    if version > len(MIGRATIONS):
        raise LocalError(f"{name} was written by another version of netctl (schema {version})")
    if version == len(MIGRATIONS):  # then a role without the right to create tables is enough
        return
    lock = f"({MIGRATION_CLASS}, hashtext(current_schema()))"
    await connection.execute(f"SET lock_timeout = '{MIGRATION_S}s'")
    await connection.execute(f"SELECT pg_advisory_lock{lock}")
    await _migrate(connection, await _version(connection))  # on an error the caller closes the connection
    await connection.execute(f"SELECT pg_advisory_unlock{lock}")
    await connection.execute("RESET lock_timeout")


async def _version(connection: AsyncConnection[Row]) -> int:
    with severed_after(connection, LOOK_S):
        there = await (
            await connection.execute("SELECT to_regclass('schema_version') IS NOT NULL")
        ).fetchone()
        if there is None or not there[0]:
            return 0
        found = await (await connection.execute("SELECT version FROM schema_version")).fetchone()
    return int(found[0]) if found is not None else 0


async def _migrate(connection: AsyncConnection[Row], version: int) -> None:
    await connection.execute(_VERSION)
    for number, step in enumerate(MIGRATIONS[version:], version + 1):
        write = (
            f"INSERT INTO schema_version (one, version) VALUES (1, {number}) "
            f"ON CONFLICT (one) DO UPDATE SET version = {number}"
        )
        await connection.execute(f"BEGIN; {for_postgres(step)} {write}; COMMIT")
