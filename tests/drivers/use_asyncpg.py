"""asyncpg as applications use it. Argument: the connection string."""

import asyncio
import datetime
import decimal
import sys
import traceback
import uuid

import asyncpg

DSN = sys.argv[1]


async def prepare(c):
    await c.execute("""CREATE TYPE mood AS ENUM ('good', 'bad');
        CREATE TABLE a_orders (tenant bigint, id int, name text, doc jsonb, tags int[], price numeric, key uuid,
            feeling mood, at timestamptz, PRIMARY KEY (tenant, id))""")
    await c.execute("SELECT create_distributed_table('a_orders', 'tenant')")


ROW = ("x", '{"a": [1, 2]}', [1, None, 3], decimal.Decimal("1.50"), uuid.UUID(int=5), "bad",
       datetime.datetime(2024, 1, 2, tzinfo=datetime.timezone.utc))


async def statements_and_types(c):
    insert = "INSERT INTO a_orders VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
    await c.executemany(insert, [(t, i, *ROW) for t in (1, 2, 3) for i in range(50)])
    got = await c.fetchrow("SELECT * FROM a_orders WHERE tenant = $1 AND id = $2", 2, 7)
    assert tuple(got) == (2, 7, *ROW), got
    statement = await c.prepare("SELECT id FROM a_orders WHERE tenant = $1 AND id < $2 ORDER BY id")
    assert [p.name for p in statement.get_parameters()] == ["int8", "int4"]
    assert [a.name for a in statement.get_attributes()] == ["id"]
    for tenant in (1, 2, 3, 1):
        assert [r["id"] for r in await statement.fetch(tenant, 5)] == [0, 1, 2, 3, 4]
    assert await c.fetchval("SELECT count(*) FROM a_orders") == 150
    rows = await c.fetch("SELECT tenant, count(*) AS n, avg(price) AS p FROM a_orders GROUP BY tenant ORDER BY tenant")
    assert [tuple(r) for r in rows] == [(t, 50, decimal.Decimal("1.50")) for t in (1, 2, 3)], rows
    assert await c.fetchval("SELECT id FROM a_orders WHERE tenant = ANY($1::bigint[]) AND id = 3 LIMIT 1", [1, 2]) == 3
    many = "INSERT INTO a_orders (tenant, id) VALUES ($1, $2)"
    await c.executemany(many, [(100 + i % 7, i) for i in range(20000)])
    assert await c.fetchval("SELECT count(*) FROM a_orders WHERE tenant >= 100") == 20000
    try:
        await c.executemany(many, [(300, 1), (301, 1), (302, 1), (300, 1)])
        raise AssertionError("this must fail")
    except asyncpg.UniqueViolationError:
        pass
    assert await c.fetchval("SELECT count(*) FROM a_orders WHERE tenant BETWEEN 300 AND 302") == 0
    await c.execute("DELETE FROM a_orders WHERE tenant >= 100")


async def cursors(c):
    async with c.transaction():
        got = []
        async for row in c.cursor("SELECT id FROM a_orders WHERE tenant = $1 ORDER BY id", 1, prefetch=7):
            got.append(row["id"])
        assert got == list(range(50))
        cursor = await c.cursor("SELECT tenant, id FROM a_orders ORDER BY tenant, id")
        assert len(await cursor.fetch(60)) == 60
        await cursor.forward(10)
        assert tuple(await cursor.fetchrow()) == (2, 20)


async def cursors_of_concatenated_rows(c):
    async with c.transaction():
        seen = set()
        async for row in c.cursor("SELECT tenant, id FROM a_orders", prefetch=40):
            seen.add(tuple(row))
        assert len(seen) == 150


async def copies(c):
    records = [(10 + i % 5, i, f"n{i}") for i in range(3000)]
    columns = ["tenant", "id", "name"]
    assert await c.copy_records_to_table("a_orders", records=records, columns=columns) == "COPY 3000"
    assert await c.fetchval("SELECT count(*) FROM a_orders WHERE tenant = 12") == 600
    out = bytearray()

    async def take(data):
        out.extend(data)
    await c.copy_from_query("SELECT id FROM a_orders WHERE tenant = $1", 12, output=take)
    assert len(out.splitlines()) == 600
    out.clear()
    await c.copy_from_table("a_orders", columns=["id"], output=take, format="csv")
    assert len(out.splitlines()) == 3150
    try:
        await c.copy_records_to_table("a_orders", records=[(10, 0, "again")], columns=columns)
        raise AssertionError("this must fail")
    except asyncpg.UniqueViolationError:
        pass
    await c.execute("DELETE FROM a_orders WHERE tenant >= 10")


async def transactions(c):
    async with c.transaction():
        await c.execute("INSERT INTO a_orders (tenant, id) VALUES (1, 900)")
        try:
            async with c.transaction():
                await c.execute("INSERT INTO a_orders (tenant, id) VALUES (2, 900)")
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        await c.execute("INSERT INTO a_orders (tenant, id) VALUES (3, 900)")
    assert [r[0] for r in await c.fetch("SELECT tenant FROM a_orders WHERE id = 900 ORDER BY 1")] == [1, 3]
    await c.execute("DELETE FROM a_orders WHERE id = 900")


async def cancel_by_timeout(c):
    for sql in ("SELECT pg_sleep(20)", "SELECT pg_sleep(20) FROM a_orders WHERE tenant = 1",
                "SELECT max(pg_sleep(20)::text) FROM a_orders"):
        try:
            await c.fetch(sql, timeout=0.3)
            raise AssertionError("this must fail")
        except (asyncio.TimeoutError, asyncpg.QueryCanceledError):
            pass
        assert await c.fetchval("SELECT 1") == 1


async def a_statement_survives_alter_table(c):
    assert len(await c.fetchrow("SELECT * FROM a_orders WHERE tenant = $1 AND id = 1", 1)) == 9
    other = await asyncpg.connect(DSN)
    await other.execute("ALTER TABLE a_orders ADD COLUMN more int")
    await other.close()
    assert len(await c.fetchrow("SELECT * FROM a_orders WHERE tenant = $1 AND id = 1", 1)) == 10


async def without_kept_statements(_):
    c = await asyncpg.connect(DSN, statement_cache_size=0)
    for tenant in (1, 2, 3):
        assert await c.fetchval("SELECT count(*) FROM a_orders WHERE tenant = $1", tenant) == 50
    await c.close()


async def a_pool(_):
    async with asyncpg.create_pool(DSN, min_size=2, max_size=8) as pool:
        async def work(i):
            async with pool.acquire() as c:
                return await c.fetchval("SELECT count(*) FROM a_orders WHERE tenant = $1", 1 + i % 3)
        assert await asyncio.gather(*(work(i) for i in range(100))) == [50] * 100


async def main():
    c = await asyncpg.connect(DSN)
    await prepare(c)
    failed = []
    for part in (statements_and_types, cursors, cursors_of_concatenated_rows, copies, transactions, cancel_by_timeout,
                 a_statement_survives_alter_table, without_kept_statements, a_pool):
        try:
            await asyncio.wait_for(part(c), 60)
            print("ok", part.__name__)
        except BaseException:
            failed.append(part.__name__)
            traceback.print_exc()
            await c.close()
            c = await asyncpg.connect(DSN)
    await c.close()
    sys.exit(f"failed: {failed}" if failed else 0)


asyncio.run(main())
