"""The admin database as drivers see it. Argument: the connection string of the database beside it."""

import asyncio
import queue
import sys
import threading
import time

import asyncpg
import psycopg
from psycopg.rows import dict_row

DSN = sys.argv[1]
ADMIN = DSN.rsplit("/", 1)[0] + "/tenantry"
TABLES = ["clients", "config", "databases", "help", "lists", "pools", "servers", "state", "stats", "stats_averages",
          "stats_totals", "totals", "users", "version"]


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
        assert sqlstate_of(lambda: c.execute("SUSPEND")) == "0A000"
        assert sqlstate_of(lambda: c.execute("SHOW DNS_HOSTS")) == "0A000"
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


def exporters_of_pgbouncer_can_read_it():
    """What prometheus-community/pgbouncer_exporter and telegraf take for labels tells rows apart, the rest are numbers."""
    wanted = {
        "databases": (["name", "host", "port", "database", "force_user", "pool_mode"],
                      ["pool_size", "max_connections", "current_connections", "paused", "disabled"]),
        "pools": (["database", "user"], ["cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_login", "maxwait"]),
        "stats_totals": (["database"], ["query_count", "query_time", "bytes_received", "bytes_sent", "wait_time",
                                        "xact_count", "xact_time"]),
        "stats": (["database"], ["total_query_count", "total_xact_count", "avg_query_count", "avg_xact_count", "avg_recv",
                                 "avg_sent", "avg_xact_time", "avg_query_time", "avg_wait_time"]),
        "users": (["name"], ["pool_size", "current_connections"]),
    }
    with psycopg.connect(DSN, autocommit=True) as c:
        c.execute("CREATE TABLE labelled (tenant int PRIMARY KEY); SELECT create_distributed_table('labelled', 'tenant');"
                  "INSERT INTO labelled SELECT generate_series(1, 50); SELECT count(*) FROM labelled")
    with psycopg.connect(ADMIN, autocommit=True, row_factory=dict_row) as c, psycopg.ClientCursor(c) as cursor:
        cursor.row_factory = dict_row
        for table, (labels, numbers) in wanted.items():
            rows = cursor.execute(f"SHOW {table.upper()};").fetchall()
            told_apart = {tuple(row[label] for label in labels) for row in rows}
            assert rows and len(told_apart) == len(rows), (table, rows)
            assert all(isinstance(row[number], int) for row in rows for number in numbers
                       if number != "max_connections" or row[number] is not None), (table, rows)
        pools = {row["database"] for row in cursor.execute("SHOW POOLS").fetchall()}
        databases = {row["name"] for row in cursor.execute("SHOW DATABASES").fetchall()}
        assert len(pools) == 3 and pools <= databases, (pools, databases)
        lists = {row["list"]: row["items"] for row in cursor.execute("SHOW LISTS").fetchall()}
        assert {"databases", "users", "pools", "used_clients", "free_servers", "used_servers"} <= set(lists), lists


def pausing():
    """As in a script: when PAUSE is done no server has a connection of a session, and who comes waits until RESUME."""
    def in_thread(run):
        answers = queue.Queue()
        threading.Thread(target=lambda: answers.put(run()), daemon=True).start()
        return answers
    with psycopg.connect(ADMIN, autocommit=True, row_factory=dict_row) as c, psycopg.connect(DSN) as busy, \
            psycopg.connect(DSN, autocommit=True) as other, psycopg.connect(ADMIN, autocommit=True) as operator:
        def connections():
            return sum(row["current_connections"] for row in c.execute("SHOW DATABASES").fetchall())

        def until(holds):
            while not holds():
                time.sleep(0.02)
        assert sqlstate_of(lambda: operator.execute("RESUME")) == "55000"
        assert sqlstate_of(lambda: operator.execute("PAUSE elsewhere")) == "3D000"
        own = busy.execute("SELECT pg_backend_pid()").fetchone()
        paused = in_thread(lambda: operator.execute("PAUSE postgres").statusmessage)
        until(lambda: {row["paused"] for row in c.execute("SHOW DATABASES").fetchall()} == {1} and connections() == 1)
        assert busy.execute("SELECT pg_backend_pid()").fetchone() == own, "its transaction goes on"
        assert paused.empty()
        waiting = in_thread(lambda: other.execute("SELECT 7").fetchone())
        # The proxy's own sessions may wait too.
        until(lambda: sum(row["cl_waiting"] for row in c.execute("SHOW POOLS").fetchall()) >= 1)
        busy.commit()
        assert paused.get(timeout=60) == "PAUSE"
        assert connections() == 0 and c.execute("SHOW SERVERS").fetchall() == []
        assert sqlstate_of(lambda: operator.execute("PAUSE")) == "55000"
        assert {row["key"]: row["value"] for row in c.execute("SHOW STATE").fetchall()}["paused"] == "yes"
        assert waiting.empty()
        assert operator.execute("RESUME").statusmessage == "RESUME"
        assert waiting.get(timeout=60) == (7,)

        # Who cancels a PAUSE, or goes while it lasts, ends it.
        busy.execute("SELECT 1")
        paused = in_thread(lambda: sqlstate_of(lambda: operator.execute("PAUSE")))
        until(lambda: c.execute("SHOW STATE").fetchone()["value"] == "no")
        operator.cancel()
        assert paused.get(timeout=60) == "57014"
        assert other.execute("SELECT 8").fetchone() == (8,)
        leaver = psycopg.connect(ADMIN, autocommit=True)
        leaver.pgconn.send_query(b"PAUSE")
        leaver.pgconn.flush()
        until(lambda: c.execute("SHOW STATE").fetchone()["value"] == "no")
        leaver.close()
        assert other.execute("SELECT 9").fetchone() == (9,)

        # RECONNECT: nobody gets a connection that was there before; a transaction keeps its own to its end.
        own = busy.execute("SELECT pg_backend_pid()").fetchone()
        before = {row["remote_pid"] for row in c.execute("SHOW SERVERS").fetchall()}
        assert own[0] in before
        assert operator.execute("RECONNECT").statusmessage == "RECONNECT"
        assert busy.execute("SELECT pg_backend_pid()").fetchone() == own
        busy.commit()
        for connection in (busy, other):
            assert connection.execute("SELECT pg_backend_pid()").fetchone()[0] not in before


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
exporters_of_pgbouncer_can_read_it()
pausing()
asyncio.run(with_asyncpg())
print("the admin database: psycopg, asyncpg")
