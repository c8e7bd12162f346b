"""The admin database as drivers see it. Argument: the connection string of the database beside it."""

import asyncio
import sys

import asyncpg
import psycopg
from psycopg.rows import dict_row

DSN = sys.argv[1]
ADMIN = DSN.rsplit("/", 1)[0] + "/tenantry"
TABLES = ["clients", "config", "databases", "help", "lists", "pools", "servers", "stats", "version"]


def sqlstate_of(run):
    try:
        run()
    except psycopg.Error as error:
        return error.sqlstate
    raise AssertionError("this must fail")


def with_psycopg():
    # Not autocommit: the driver sends BEGIN before the first command.
    with psycopg.connect(ADMIN, row_factory=dict_row) as c:
        assert c.execute("SHOW VERSION").fetchone()["version"].startswith("Tenantry ")
        for prepare in (None, True):
            for binary in (False, True):
                for table in TABLES:
                    rows = c.execute(f"SHOW {table.upper()}", prepare=prepare, binary=binary).fetchall()
                    assert rows or table in ("pools", "servers"), table
        assert sqlstate_of(lambda: c.execute("SELECT 1")) == "0A000"
        assert sqlstate_of(lambda: c.execute("SHOW POOLS")) == "25P02"
        c.rollback()
        assert c.execute("SHOW POOLS").fetchall()
    with psycopg.connect(ADMIN, autocommit=True) as c:
        assert sqlstate_of(lambda: c.execute("SHOW POOLS WHERE %s = 1", [1])) == "42601"
        assert sqlstate_of(lambda: c.execute("PAUSE")) == "0A000"
        assert sqlstate_of(lambda: c.execute("SHOW TENANTS")) == "42704"
        # The simple protocol takes several at once.
        with psycopg.ClientCursor(c) as cursor:
            cursor.execute("SHOW VERSION; SHOW LISTS")
            assert len(cursor.fetchall()) == 1 and cursor.nextset() and len(cursor.fetchall()) > 5
        with psycopg.connect(DSN, application_name="first", autocommit=True) as seen:
            def clients():
                columns = [column.name for column in c.execute("SHOW CLIENTS").description]
                rows = [dict(zip(columns, row)) for row in c.execute("SHOW CLIENTS").fetchall()]
                return {row["id"]: row for row in rows}
            id = seen.info.backend_pid
            row = clients()[id]
            assert (row["user"], row["database"], row["state"]) == ("postgres", "postgres", "idle"), row
            assert (row["application_name"], row["addr"], row["tls"]) == ("first", "127.0.0.1", "off"), row
            seen.execute("SET application_name = 'second'")
            with seen.transaction():
                seen.execute("SELECT 1")
                row = clients()[id]
                assert (row["application_name"], row["state"]) == ("second", "idle in transaction"), row
        own = clients()[c.info.backend_pid]
        assert (own["database"], own["state"]) == ("tenantry", "active"), own


async def with_asyncpg():
    c = await asyncpg.connect(ADMIN)
    pools = await c.fetch("SHOW POOLS")
    assert {"database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "maxwait"} <= set(pools[0].keys())
    assert all(isinstance(row["sv_idle"], int) for row in pools)
    stats = await c.fetchrow("SHOW STATS")
    before = stats["total_query_count"]
    other = await asyncpg.connect(DSN)
    for _ in range(5):
        await other.fetchval("SELECT 1")
    await other.close()
    stats = await c.fetchrow("SHOW STATS")
    assert stats["total_query_count"] >= before + 5, (before, dict(stats))
    assert stats["total_received"] > 0 and stats["total_sent"] > 0 and stats["total_query_time"] > 0, dict(stats)
    statement = await c.prepare("SHOW HELP")
    cursor = [row["command"] for row in await statement.fetch()]
    assert "SHOW POOLS" in cursor and "RELOAD" in cursor, cursor
    await c.close()


with_psycopg()
asyncio.run(with_asyncpg())
print("the admin database: psycopg, asyncpg")
