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


async def types_of_users_own(c):
    """Arrays and composites name types in their binary values, and a type has another OID on each server."""
    await c.execute("""CREATE TYPE a_mood AS ENUM ('good', 'bad');
        CREATE TYPE a_point AS (x int, mood a_mood);
        CREATE DOMAIN a_moods AS a_mood[];
        CREATE TABLE a_felt (tenant int, id int, moods a_mood[], point a_point, points a_point[], also a_moods,
            PRIMARY KEY (tenant, id));
        INSERT INTO a_felt SELECT t, 0, '{bad,good}', (7, 'bad')::a_point, ARRAY[(1, 'good')::a_point, NULL], '{bad}'
            FROM generate_series(1, 40) t;
        CREATE TABLE a_copies (id int PRIMARY KEY, moods a_mood[], point a_point)""")
    await c.execute("SELECT create_distributed_table('a_felt', 'tenant')")
    await c.execute("SELECT create_reference_table('a_copies')")
    felt = (["bad", "good"], (7, "bad"), [(1, "good"), None], ["bad"])
    insert = "INSERT INTO a_felt VALUES ($1, $2, $3, $4, $5, $6)"
    for tenant in range(1, 41):
        await c.execute(insert, tenant, 1, *felt)
    await c.executemany(insert, [(tenant, 2, *felt) for tenant in range(1, 41)])
    rows = ", ".join(f"({tenant}, 3, $1::a_mood[], $2::a_point, $3::a_point[], $4::a_moods)" for tenant in range(1, 41))
    assert await c.execute(f"INSERT INTO a_felt VALUES {rows}", *felt) == "INSERT 0 40"
    columns = "moods, point, points, also"
    for of in ("WHERE tenant = 7", "WHERE tenant = 8 ORDER BY id", "WHERE id < 9", "ORDER BY tenant, id"):
        got = await c.fetch(f"SELECT {columns} FROM a_felt {of}")
        assert len(got) in (4, 160) and all(tuple(row) == felt for row in got), (of, got[:1])
    # Rows go by the coordinator where no shard can answer for itself.
    pulled = f"SELECT a.moods, a.point, a.points, b.also FROM a_felt a JOIN a_felt b ON a.id = b.tenant WHERE b.id = 0"
    got = await c.fetch(pulled)
    assert len(got) == 120 and all(tuple(row) == felt for row in got), got[:1]
    for condition in ("tenant = 7 AND", ""):
        where = f"WHERE {condition} moods = $1 AND point = $2::a_point AND points = $3 AND also = $4"
        many = await c.fetchval(f"SELECT count(*) FROM a_felt {where}", *felt)
        assert many == (4 if condition else 160), many
        assert await c.execute(f"UPDATE a_felt SET moods = $1, point = $2 {where}", *felt) == f"UPDATE {many}"
    got = await c.execute(f"INSERT INTO a_felt SELECT tenant + 100, id, {columns} FROM a_felt")
    assert got == "INSERT 0 160", got
    await c.execute("INSERT INTO a_copies VALUES ($1, $2, $3)", 1, *felt[:2])
    assert tuple(await c.fetchrow("UPDATE a_copies SET moods = $1 RETURNING moods, point", felt[0])) == felt[:2]
    assert tuple(await c.fetchrow("SELECT c.moods, c.point FROM a_copies c JOIN a_felt f ON f.id = c.id "
                                  "WHERE f.tenant = $1", 9)) == felt[:2]
    # A row that does not fit into a buffer, and a portal that is fetched in parts.
    long = ["bad", "good"] * 50_000
    await c.execute(insert, 7, 4, long, *felt[1:])
    assert await c.fetchval("SELECT moods FROM a_felt WHERE tenant = 7 AND id = $1", 4) == long
    await c.execute("DELETE FROM a_felt WHERE id = 4")
    async with c.transaction():
        got = [tuple(row) async for row in c.cursor(f"SELECT {columns} FROM a_felt WHERE tenant = 7", prefetch=3)]
        assert got == [felt] * 4, got
    # COPY in binary, both ways.
    records = [(tenant, 5, *felt) for tenant in range(1, 41)]
    assert await c.copy_records_to_table("a_felt", records=records) == "COPY 40"
    assert await c.copy_records_to_table("a_copies", records=[(2, *felt[:2])]) == "COPY 1"
    out = bytearray()

    async def take(data):
        out.extend(data)
    assert await c.copy_from_table("a_felt", output=take, format="binary") == "COPY 360"
    await c.execute("TRUNCATE a_felt")

    async def back():
        yield bytes(out)
    assert await c.copy_to_table("a_felt", source=back(), format="binary") == "COPY 360"
    got = await c.fetch(f"SELECT {columns} FROM a_felt")
    assert len(got) == 360 and all(tuple(row) == felt for row in got)
    # A type that changes gets another type into it.
    await c.execute("CREATE TYPE a_more AS ENUM ('much')")
    await c.execute("ALTER TYPE a_point ADD ATTRIBUTE more a_more")
    await c.reload_schema_state()
    point = (7, "bad", "much")
    await c.execute("UPDATE a_felt SET point = $1 WHERE tenant = 7", point)
    for of in ("tenant = 7", "tenant BETWEEN 6 AND 8 AND (point).more = 'much'"):
        assert tuple(await c.fetchval(f"SELECT point FROM a_felt WHERE {of} LIMIT 1")) == point, of


async def one_row_of_what_the_proxy_runs_itself(c):
    """fetchval and fetchrow ask for one row and take no more."""
    await c.execute("CREATE TABLE a_made (tenant int, id int, PRIMARY KEY (tenant, id)); CREATE TABLE a_known (id int)")
    assert await c.fetchval("SELECT create_distributed_table('a_made', 'tenant')") is None
    assert await c.fetchval("SELECT create_reference_table('a_known')") is None
    assert await c.fetchval("SELECT set_config('app.user', $1, false)", "someone") == "someone"
    assert await c.fetchval("SELECT current_setting('app.user')") == "someone"
    rows = ", ".join(f"({tenant}, 1)" for tenant in range(20))
    assert await c.fetchval(f"INSERT INTO a_made VALUES {rows} RETURNING tenant") == 0
    assert tuple(await c.fetchrow("INSERT INTO a_known VALUES (5), (6), (7) RETURNING id")) == (5,)
    assert await c.fetchval("UPDATE a_made SET id = 2 RETURNING id") == 2
    assert await c.fetchval("EXPLAIN SELECT count(*) FROM a_made") is not None
    await c.execute("PREPARE of_all AS SELECT id FROM a_made")
    assert await c.fetchval("EXECUTE of_all") == 2
    async with c.transaction():
        cursor = await c.cursor("DELETE FROM a_made RETURNING tenant")
        got = [row["tenant"] for row in await cursor.fetch(7)]
        assert len(got) == 7 and await c.fetchval("SELECT count(*) FROM a_made") == 0
        got += [row["tenant"] for row in await cursor.fetch(50)]
        assert sorted(got) == list(range(20)) and await cursor.fetch(5) == []
    for wrong in ("INSERT INTO a_made VALUES (1, 1), (1, 1), (2, 1) RETURNING id", "UPDATE a_known SET id = 1 / 0 RETURNING id"):
        try:
            await c.fetchval(wrong)
            raise AssertionError("this must fail")
        except (asyncpg.UniqueViolationError, asyncpg.DivisionByZeroError):
            assert await c.fetchval("SELECT count(*) FROM a_made") == 0


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
    for part in (statements_and_types, types_of_users_own,
                 one_row_of_what_the_proxy_runs_itself, cursors, cursors_of_concatenated_rows, copies, transactions, cancel_by_timeout,
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
