"""psycopg2 as applications use it, also asynchronously. Arguments: see matrix.py."""

import io
import select
import threading
import time

import psycopg2
import psycopg2.extensions as ext
import psycopg2.extras
import psycopg2.pool
from psycopg2 import errorcodes, errors

import matrix
from matrix import COLUMNS, DSN, PASSWORD_DSN, TABLES

psycopg2.extras.register_uuid()
LIST = ", ".join(COLUMNS)


def connect(autocommit=False, **options):
    c = psycopg2.connect(DSN, **options)
    c.autocommit = autocommit
    return c


def one(c, sql, values=None):
    with c.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.fetchone()


def error_of(run):
    try:
        run()
    except psycopg2.Error as error:
        return error
    raise AssertionError("this must fail")


def values(tenant, id):
    return [psycopg2.extras.Json(v) if n in ("doc", "written") else v for n, v in zip(COLUMNS, matrix.row(tenant, id))]


def logs_in():
    c = connect()
    assert c.server_version >= 150000 and c.get_parameter_status("standard_conforming_strings") == "on"
    assert c.encoding == "UTF8" and c.info.dbname and c.get_backend_pid() != 0
    c.close()
    if PASSWORD_DSN:
        c = psycopg2.connect(PASSWORD_DSN)
        assert one(c, "SELECT current_user") == ("app",) and one(c, "SELECT count(*) FROM orders") == (0,)
        c.close()
        wrong = error_of(lambda: psycopg2.connect(PASSWORD_DSN.replace("correct", "wrong")))
        assert 'password authentication failed for user "app"' in str(wrong), wrong


def types():
    c = connect()
    for table in TABLES:
        with c.cursor() as cursor:
            insert = f"INSERT INTO {table} ({LIST}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
            cursor.execute(insert, values(1, 1))
            psycopg2.extras.execute_values(cursor, f"INSERT INTO {table} ({LIST}) VALUES %s",
                                           [values(t, i) for t in (2, 3) for i in range(5)])
            cursor.execute(f"SELECT {LIST} FROM {table} WHERE tenant = %s AND id = %s", (1, 1))
            got = cursor.fetchone()
            want = matrix.row(1, 1)
            got = tuple(bytes(v) if isinstance(v, memoryview) else v for v in got)
            assert got == want, (got, want)
            cursor.execute(f"SELECT {LIST} FROM {table} ORDER BY tenant DESC, id LIMIT 1")
            assert cursor.fetchone()[:3] == matrix.row(3, 0)[:3]
            cursor.execute(f"SELECT sum(amount), max(day), count(DISTINCT key) FROM {table}")
            assert cursor.fetchone() == (matrix.row(1, 1)[3] * 11, matrix.row(1, 1)[7], 5)
            cursor.execute(f"SELECT doc->'deep'->>'b' FROM {table} WHERE tenant = 2 AND doc @> %s",
                           (psycopg2.extras.Json({"a": [1]}),))
            assert cursor.fetchall() == [("true",)] * 5
            cursor.execute(f"UPDATE {table} SET at = %s, data = %s WHERE tenant = 2 RETURNING at AT TIME ZONE 'Asia/Tokyo'",
                           (matrix.row(1, 1)[10], psycopg2.Binary(b"\0\1")))
            assert cursor.fetchone()[0].hour == 8
    c.commit()
    with connect() as c, c.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute("SET TIME ZONE 'America/New_York'")
        for table in TABLES:
            cursor.execute(f"SELECT at, at::text AS written FROM {table} WHERE tenant = 1 AND id = 1")
            got = cursor.fetchone()
            assert got["at"] == matrix.row(1, 1)[10] and got["written"] == "2024-12-31 18:30:00-05", got
    c.close()


def batches():
    c = connect()
    with c.cursor() as cursor:
        for table in TABLES:
            insert = f"INSERT INTO {table} (tenant, id, name) VALUES (%s, %s, %s)"
            rows = [(10 + i % 4, i, f"n{i}") for i in range(60)]
            cursor.executemany(insert, rows)
            psycopg2.extras.execute_batch(cursor, insert, [(t, 100 + i, n) for t, i, n in rows], page_size=25)
            ids = psycopg2.extras.execute_values(
                cursor, f"INSERT INTO {table} (tenant, id, name) VALUES %s ON CONFLICT (tenant, id) DO UPDATE "
                "SET name = excluded.name RETURNING id", [(t, 52 + i, n) for t, i, n in rows], fetch=True)
            assert len(ids) == 60
            cursor.execute(f"SELECT count(*), count(DISTINCT tenant) FROM {table} WHERE tenant >= 10")
            assert cursor.fetchone() == (160, 4)
        c.rollback()
        cursor.execute("SELECT count(*) FROM orders WHERE tenant >= 10")
        assert cursor.fetchone() == (0,)
    c.close()


def prepared_statements():
    c = connect(autocommit=True)
    with c.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"PREPARE find_{table} (int, int) AS SELECT id, name FROM {table} WHERE tenant = $1 AND id = $2")
            for i in range(12):
                cursor.execute(f"EXECUTE find_{table} (%s, %s)", (2 + i % 2, i % 5))
                assert cursor.fetchone()[0] == i % 5
        cursor.execute("DEALLOCATE find_orders")
        assert error_of(lambda: cursor.execute("EXECUTE find_orders (1, 1)")).pgcode == errorcodes.INVALID_SQL_STATEMENT_NAME
        cursor.execute("DEALLOCATE ALL")
    c.close()


def transactions():
    c = connect()
    for table in TABLES:
        with c, c.cursor() as cursor:
            cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (20, 1)")
            cursor.execute("SAVEPOINT one")
            cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (21, 1)")
            error_of(lambda: cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (21, 1)"))
            cursor.execute("ROLLBACK TO SAVEPOINT one")
            cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (22, 1)")
            cursor.execute("RELEASE SAVEPOINT one")
        assert c.status == ext.STATUS_READY
        with c, c.cursor() as cursor:
            cursor.execute(f"SELECT tenant FROM {table} WHERE tenant >= 20 ORDER BY tenant")
            assert cursor.fetchall() == [(20,), (22,)]
            cursor.execute(f"DELETE FROM {table} WHERE tenant >= 20")
            assert cursor.rowcount == 2
        for level in (ext.ISOLATION_LEVEL_REPEATABLE_READ, ext.ISOLATION_LEVEL_SERIALIZABLE, ext.ISOLATION_LEVEL_READ_COMMITTED):
            c.set_session(isolation_level=level)
            name = one(c, "SHOW transaction_isolation")[0]
            assert name == {1: "read committed", 2: "repeatable read", 3: "serializable"}[level], (name, level)
            assert one(c, f"SELECT count(*) FROM {table} WHERE tenant = 2") == (5,)
            assert one(c, "SHOW transaction_isolation")[0] == name
            c.rollback()
        c.set_session(isolation_level="DEFAULT", readonly=True)
        assert one(c, f"SELECT count(*) FROM {table} WHERE tenant = 2") == (5,)
        assert one(c, f"SELECT count(*) FROM {table} WHERE tenant > 0") == (11,)
        refused = error_of(lambda: one(c, f"UPDATE {table} SET flag = true WHERE tenant = 2 RETURNING id"))
        assert refused.pgcode == errorcodes.READ_ONLY_SQL_TRANSACTION, refused
        c.rollback()
        c.set_session(readonly=False)
    c.close()


def copies():
    c = connect()
    with c.cursor() as cursor:
        for table in TABLES:
            cursor.copy_expert(f"COPY {table} (tenant, id, name) FROM STDIN (FORMAT csv)",
                               io.StringIO("".join(f'{30 + i % 5},{i},"x, {i}"\n' for i in range(2000))))
            cursor.copy_from(io.StringIO("40\t1\ty\n41\t1\t\\N\n"), table, columns=("tenant", "id", "name"))
            out = io.StringIO()
            cursor.copy_to(out, table, columns=("tenant", "id", "name"), null="nothing")
            lines = out.getvalue().splitlines()
            assert len(lines) == 11 + 2002 and "41\t1\tnothing" in lines, len(lines)
            out = io.BytesIO()
            cursor.copy_expert(f"COPY (SELECT id FROM {table} WHERE tenant = 31 ORDER BY id) TO STDOUT", out)
            assert out.getvalue().split()[:2] == [b"1", b"6"]
            bad = error_of(lambda: cursor.copy_expert(f"COPY {table} (tenant, id) FROM STDIN", io.StringIO("1\tx\n")))
            assert bad.pgcode == errorcodes.INVALID_TEXT_REPRESENTATION and "COPY" in bad.diag.context, bad.diag.context
            c.rollback()
            assert one(c, f"SELECT count(*) FROM {table}") == (11,)
    c.close()


def cancels():
    c = connect(autocommit=True)
    other = connect(autocommit=True)
    for table in TABLES:
        for sql in (f"SELECT pg_sleep(60) FROM {table} WHERE tenant = 1", f"SELECT max(pg_sleep(60)::text) FROM {table}"):
            timer = threading.Timer(0.3, c.cancel)
            timer.start()
            stopped = error_of(lambda: one(c, sql))
            assert stopped.pgcode == errorcodes.QUERY_CANCELED and isinstance(stopped, errors.QueryCanceled), stopped
            timer.join()
            # A cancel that comes late, or for another session, stops nothing.
            c.cancel()
            assert one(other, f"SELECT count(*) FROM {table} WHERE tenant = 1") == (1,)
            assert one(c, "SELECT 1") == (1,)
        with c.cursor() as cursor:
            cursor.execute("SET statement_timeout = '200ms'")
            assert error_of(lambda: one(c, f"SELECT pg_sleep(60) FROM {table} WHERE tenant = 1")).pgcode == "57014"
            cursor.execute("RESET statement_timeout")
    c.close()
    other.close()


def errors_with_their_fields():
    c = connect(autocommit=True)
    schema = one(c, "SELECT current_schema()")[0]
    for table in TABLES:
        twice = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id) VALUES (1, 1)"))
        assert isinstance(twice, errors.UniqueViolation)
        d = twice.diag
        assert (d.constraint_name, d.table_name, d.schema_name) == (f"{table}_pkey", table, schema), \
            (d.constraint_name, d.table_name, d.schema_name)
        assert d.message_detail == "Key (tenant, id)=(1, 1) already exists.", d.message_detail
        check = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id, name) VALUES (1, 500, '')"))
        assert (check.pgcode, check.diag.constraint_name) == ("23514", "name_is_not_empty")
        null = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id) VALUES (1, NULL)"))
        assert (null.pgcode, null.diag.column_name, null.diag.table_name) == ("23502", "id", table)
        unknown = error_of(lambda: one(c, f"SELECT nothing FROM {table} WHERE tenant = 1"))
        assert (unknown.pgcode, unknown.diag.statement_position) == ("42703", "8"), unknown.diag.statement_position
        assert error_of(lambda: one(c, f"SELECT 1 / (id - 1) FROM {table} WHERE tenant = 1")).pgcode == "22012"
    assert error_of(lambda: one(c, "SELECT * FROM nowhere")).pgcode == "42P01"
    assert error_of(lambda: one(c, "SELEC 1")).pgcode == "42601"
    with c.cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$")
    assert c.notices[-1].startswith("NOTICE:  hello 1"), c.notices
    c.close()


def cursors_of_the_server():
    with connect() as c:
        for table in TABLES:
            with c.cursor("one_tenant") as cursor:
                cursor.itersize = 2
                cursor.execute(f"SELECT id FROM {table} WHERE tenant = %s ORDER BY id", (2,))
                assert [r[0] for r in cursor] == list(range(5))
            with c.cursor("all_tenants", scrollable=True) as cursor:
                cursor.execute(f"SELECT tenant, id FROM {table} ORDER BY tenant, id")
                assert cursor.fetchmany(3)[-1] == (2, 1)
                cursor.scroll(-2)
                assert cursor.fetchone() == (2, 0)
    c.close()


def asynchronous():
    def wait(c):
        while (state := c.poll()) != ext.POLL_OK:
            select.select([c] if state == ext.POLL_READ else [], [c] if state == ext.POLL_WRITE else [], [], 20)

    connections = [psycopg2.connect(DSN, async_=1) for _ in range(4)]
    for c in connections:
        wait(c)
    cursors = [c.cursor() for c in connections]
    for table in TABLES:
        for i, cursor in enumerate(cursors):
            cursor.execute(f"SELECT pg_sleep(0.05), id FROM {table} WHERE tenant = 2 AND id = %s", (i,))
        for i, c in enumerate(connections):
            wait(c)
            assert cursors[i].fetchone()[1] == i
    for c in connections:
        c.close()


def a_pool():
    pool = psycopg2.pool.ThreadedConnectionPool(1, 4, DSN)
    gate, failed = threading.Semaphore(4), []

    def work(i):
        try:
            with gate:
                c = pool.getconn()
                for table in TABLES:
                    assert one(c, f"SELECT count(*) FROM {table} WHERE tenant = %s", (2 + i % 2,)) == (5,)
                pool.putconn(c)  # Rolls back.
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    pool.closeall()


matrix.run(logs_in, types, batches, prepared_statements, transactions, copies, cancels, errors_with_their_fields,
           cursors_of_the_server, asynchronous, a_pool)
