"""psycopg 3 as applications use it. Argument: the connection string."""

import asyncio
import datetime
import decimal
import enum
import sys
import threading
import time
import traceback
import uuid

import psycopg
from psycopg.types import TypeInfo
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.hstore import register_hstore
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool, ConnectionPool

DSN = sys.argv[1]


def connect(**options):
    return psycopg.connect(DSN, **options)


def sqlstate_of(run):
    try:
        run()
    except psycopg.Error as error:
        return error.sqlstate
    raise AssertionError("this must fail")


def prepare():
    with connect(autocommit=True) as c:
        c.execute("CREATE TABLE p_orders (tenant int, id int, name text, doc jsonb, day date, at timestamptz, "
                  "tags text[], price numeric(12,3), key uuid, raw bytea, PRIMARY KEY (tenant, id))")
        c.execute("SELECT create_distributed_table('p_orders', 'tenant')")


def rows(tenant, n):
    return [(tenant, i, f"order {i}", Jsonb({"i": i, "deep": [1, None, "x"]}), datetime.date(2024, 1, 1 + i % 28),
             datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc), ["a", None, "ü"],
             decimal.Decimal("12345.678"), uuid.UUID(int=i), bytes([0, 255, i % 256])) for i in range(n)]


INSERT = "INSERT INTO p_orders VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"


def types_come_back_in_text_and_binary():
    with connect() as c:
        for tenant in (1, 2, 3):
            c.cursor().executemany(INSERT, rows(tenant, 20))
        c.commit()
        for binary in (False, True):
            for threshold in (None, 0):
                c.prepare_threshold = threshold
                got = c.cursor(binary=binary).execute(
                    "SELECT * FROM p_orders WHERE tenant = %s AND id = %s", (2, 7)).fetchone()
                want = rows(2, 20)[7]
                assert got[:3] == want[:3] and got[3] == want[3].obj and got[4:] == want[4:], (got, want)
                count = c.cursor(binary=binary).execute("SELECT count(*), sum(price) FROM p_orders").fetchone()
                assert count == (60, decimal.Decimal("12345.678") * 60), count
        c.prepare_threshold = 1
        for i in range(10):
            assert c.execute("SELECT id FROM p_orders WHERE tenant = %s AND id = %s", (1 + i % 3, i)).fetchone() == (i,)


class Mood(enum.Enum):
    good = 1
    bad = 2


def types_of_users_own():
    """Drivers find them by OID, and that is another one on each server."""
    with connect(autocommit=True) as c:
        c.execute("CREATE TYPE p_mood AS ENUM ('good', 'bad'); CREATE TYPE p_point AS (x int, y text);"
                  "CREATE EXTENSION hstore; CREATE TABLE p_moods (tenant int, id int, mood p_mood, moods p_mood[], "
                  "point p_point, pairs hstore, PRIMARY KEY (tenant, id))")
        c.execute("SELECT create_distributed_table('p_moods', 'tenant')")
        register_enum(EnumInfo.fetch(c, "p_mood"), c, Mood)
        register_composite(CompositeInfo.fetch(c, "p_point"), c)
        register_hstore(TypeInfo.fetch(c, "hstore"), c)
        for tenant in range(4):
            c.execute("INSERT INTO p_moods VALUES (%s, 1, %s, ARRAY['bad', 'good']::p_mood[], (7, 'x y'), %s)",
                      (tenant, Mood.bad, {"a": "b", "c": None}))
        # On each shard some parameters have no place to infer their type from.
        c.execute("INSERT INTO p_moods (tenant, id, mood, point, pairs) VALUES " + ", ".join(["(%s, 2, %s, %s, %s)"] * 3),
                  [v for tenant in range(3) for v in (tenant, Mood.good, (1, "z"), {"n": None})])
        assert c.execute("DELETE FROM p_moods WHERE id = 2 AND mood = %s AND tenant < 9", (Mood.good,)).rowcount == 3
        for condition in ("tenant = 2", "tenant > 2", "tenant < 1 ORDER BY id"):
            row = c.execute(f"SELECT mood, moods, point, pairs FROM p_moods WHERE {condition}").fetchone()
            assert (row[0], row[1], tuple(row[2]), row[3]) == (Mood.bad, [Mood.bad, Mood.good], (7, "x y"), {"a": "b", "c": None}), row
            binary = c.cursor(binary=True)
            row = binary.execute(f"SELECT mood, pairs->'a', moods, point FROM p_moods WHERE {condition}").fetchone()
            assert row[:3] == (Mood.bad, "b", [Mood.bad, Mood.good]) and tuple(row[3]) == (7, "x y"), row
            row = binary.execute(f"SELECT ROW(mood, moods) FROM p_moods WHERE {condition}").fetchone()
            assert row == ((Mood.bad, [Mood.bad, Mood.good]),), row
        for tenants in ("= 2", "< 9"):
            found = c.execute(f"SELECT count(*) FROM p_moods WHERE tenant {tenants} AND moods = %b", ([Mood.bad, Mood.good],))
            assert found.fetchone()[0] == (1 if tenants == "= 2" else 4)
        assert c.execute("UPDATE p_moods SET mood = %s WHERE tenant = 1 RETURNING mood", (Mood.good,)).fetchone() == (Mood.good,)


def cursors_of_the_server():
    with connect() as c:
        with c.cursor("one_tenant") as cursor:
            cursor.itersize = 7
            cursor.execute("SELECT id FROM p_orders WHERE tenant = %s ORDER BY id", (1,))
            assert [r[0] for r in cursor] == list(range(20))
        with c.cursor("all_tenants") as cursor:
            cursor.execute("SELECT tenant, id FROM p_orders ORDER BY tenant, id")
            assert cursor.fetchmany(25)[-1] == (2, 4) and len(cursor.fetchall()) == 35


def pipelines():
    with connect() as c:
        with c.pipeline():
            cursors = [c.execute("SELECT id FROM p_orders WHERE tenant = %s AND id = %s", (1 + i % 3, i % 20))
                       for i in range(100)]
            c.execute("INSERT INTO p_orders (tenant, id) VALUES (1, 1000)")
            c.execute("INSERT INTO p_orders (tenant, id) VALUES (2, 1000)")
            total = c.execute("SELECT count(*) FROM p_orders WHERE id = 1000")
        assert [x.fetchone()[0] for x in cursors] == [i % 20 for i in range(100)]
        assert total.fetchone() == (2,)
        c.rollback()
        assert c.execute("SELECT count(*) FROM p_orders").fetchone() == (60,)
    with connect(autocommit=True) as c:
        def fails():
            with c.pipeline():
                c.execute("INSERT INTO p_orders (tenant, id) VALUES (1, 1001)")
                c.execute("INSERT INTO p_orders (tenant, id) VALUES (3, 1001)")
                c.execute("SELECT 1/0")
        assert sqlstate_of(fails) == "22012"
        assert c.execute("SELECT count(*) FROM p_orders WHERE id = 1001").fetchone() == (0,)
        # Far more than sockets hold, in both directions.
        with c.pipeline():
            cursors = [c.execute("SELECT repeat('x', 500), id FROM p_orders WHERE tenant = 1 AND id = %s", (i % 20,))
                       for i in range(20000)]
        assert [x.fetchone()[1] for x in cursors] == [i % 20 for i in range(20000)]


def copies():
    with connect() as c:
        for fmt, data in (("text", "7\t{}\tx\n"), ("csv", '7,{},"x, y"\n')):
            with c.cursor().copy(f"COPY p_orders (tenant, id, name) FROM STDIN (FORMAT {fmt})") as copy:
                for i in range(2000):
                    copy.write(data.format(i if fmt == "text" else 10000 + i))
        with c.cursor().copy("COPY p_orders (tenant, id, name) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["int4", "int4", "text"])
            for i in range(1000):
                copy.write_row((8 + i % 3, i, None))
        assert c.execute("SELECT count(*) FROM p_orders WHERE tenant = 7").fetchone() == (4000,)
        with c.cursor().copy("COPY p_orders (tenant, id, name) TO STDOUT") as copy:
            assert len(list(copy.rows())) == 60 + 5000
        with c.cursor().copy("COPY (SELECT id, tenant FROM p_orders WHERE tenant = %s) TO STDOUT (FORMAT binary)",
                             (9,)) as copy:
            copy.set_types(["int4", "int4"])
            assert {t for _, t in copy.rows()} == {9}

        def gives_up():
            with c.cursor().copy("COPY p_orders (tenant, id) FROM STDIN") as copy:
                copy.write("1\t5000\n")
                raise ZeroDivisionError
        try:
            gives_up()
        except ZeroDivisionError:
            pass
        c.rollback()
        assert c.execute("SELECT count(*) FROM p_orders").fetchone() == (60,)


def transactions_and_errors():
    with connect() as c:
        with c.transaction():
            c.execute("INSERT INTO p_orders (tenant, id) VALUES (1, 2000)")
            try:
                with c.transaction():
                    c.execute("INSERT INTO p_orders (tenant, id) VALUES (2, 2000)")
                    c.execute("INSERT INTO p_orders (tenant, id) VALUES (2, 2000)")
            except psycopg.errors.UniqueViolation as error:
                assert error.diag.constraint_name == "p_orders_pkey" and error.diag.table_name == "p_orders"
                assert error.diag.schema_name == "public", error.diag.schema_name
        assert c.execute("SELECT tenant FROM p_orders WHERE id = 2000").fetchall() == [(1,)]
        c.execute("DELETE FROM p_orders WHERE tenant = 1 AND id = 2000")
        c.commit()
        assert sqlstate_of(lambda: c.execute("SELECT nothing FROM p_orders WHERE tenant = 1")) == "42703"
        assert sqlstate_of(lambda: c.execute("SELECT 1")) == "25P02"
        c.rollback()
        assert sqlstate_of(lambda: c.execute("SELEC")) == "42601"
        c.rollback()
        assert sqlstate_of(lambda: c.execute("SELECT * FROM p_orders WHERE tenant = %s", ("x y",))) in ("22P02",)
        c.rollback()
        c.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        assert c.execute("SHOW transaction_isolation").fetchone() == ("serializable",)
        c.rollback()


def notices_and_cancel():
    with connect(autocommit=True) as c:
        heard = []
        c.add_notice_handler(lambda diag: heard.append(diag.message_primary))
        c.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$")
        assert heard == ["hello 1"], heard
        for sql in ("SELECT pg_sleep(20)", "SELECT pg_sleep(20) FROM p_orders WHERE tenant = 1"):
            timer = threading.Timer(0.3, c.cancel)
            timer.start()
            start = time.time()
            assert sqlstate_of(lambda: c.execute(sql)) == "57014"
            assert time.time() - start < 10
            timer.join()
            assert c.execute("SELECT 1").fetchone() == (1,)


def pools():
    count = "SELECT count(*) FROM p_orders WHERE tenant = %s"
    with ConnectionPool(DSN, min_size=1, max_size=4) as pool:
        for i in range(20):
            with pool.connection() as c:
                assert c.execute(count, (1 + i % 3,)).fetchone() == (20,)

    async def asynchronous():
        async with AsyncConnectionPool(DSN, min_size=2, max_size=4) as pool:
            async def work(i):
                async with pool.connection() as c, c.transaction():
                    return await (await c.execute(count, (1 + i % 3,))).fetchone()
            assert await asyncio.gather(*(work(i) for i in range(40))) == [(20,)] * 40

            async with pool.connection() as c:
                sleeps = asyncio.create_task(c.execute("SELECT pg_sleep(60) FROM p_orders WHERE tenant = 1"))
                await asyncio.sleep(0.3)
                await c.cancel_safe()
                try:
                    await sleeps
                    raise AssertionError("this must be cancelled")
                except psycopg.errors.QueryCanceled:
                    await c.rollback()

    asyncio.run(asynchronous())


prepare()
failed = []
for part in (types_come_back_in_text_and_binary, types_of_users_own, cursors_of_the_server, pipelines, copies,
             transactions_and_errors, notices_and_cancel, pools):
    try:
        part()
        print("ok", part.__name__)
    except BaseException:
        failed.append(part.__name__)
        traceback.print_exc()
sys.exit(f"failed: {failed}" if failed else 0)
