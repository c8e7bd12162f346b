"""pg8000 as applications use it: its DB-API and its native interface. Arguments: see matrix.py."""

import io
import json
import socket
import struct
import threading
import urllib.parse

import pg8000.dbapi
import pg8000.native

import matrix
from matrix import COLUMNS, DSN, PASSWORD_DSN, TABLES

LIST = ", ".join(COLUMNS)


def options(uri):
    """A URI's parts as the driver wants them."""
    parts = urllib.parse.urlsplit(uri)
    password = urllib.parse.unquote(parts.password) if parts.password else None
    settings = {name: values[0] for name, values in urllib.parse.parse_qs(parts.query).items()}
    return {"user": parts.username, "password": password, "host": parts.hostname, "port": parts.port,
            "database": parts.path[1:], "startup_params": settings}


def connect(autocommit=False):
    c = pg8000.dbapi.connect(**options(DSN))
    c.autocommit = autocommit
    return c


def native():
    return pg8000.native.Connection(**options(DSN))


def all_of(c, sql, values=()):
    cursor = c.cursor()
    cursor.execute(sql, values)
    return [tuple(r) for r in cursor.fetchall()]


def one(c, sql, values=()):
    return all_of(c, sql, values)[0]


def error_of(run):
    """The fields of the server's error, by their letters in the protocol."""
    try:
        run()
    except (pg8000.dbapi.DatabaseError, pg8000.native.DatabaseError) as error:
        return error.args[0]
    raise AssertionError("this must fail")


def logs_in():
    c = connect()
    assert one(c, "SELECT current_schema()") == ("use_pg8000",) and one(c, "SELECT %s::text", ("ü",)) == ("ü",)
    c.close()
    if PASSWORD_DSN:
        c = pg8000.dbapi.connect(**options(PASSWORD_DSN))
        assert one(c, "SELECT current_user::text, count(*) FROM orders") == ("app", 0)
        c.close()
        wrong = error_of(lambda: pg8000.dbapi.connect(**options(PASSWORD_DSN.replace("correct", "wrong"))))
        assert wrong["C"] == "28P01" and 'for user "app"' in wrong["M"], wrong


def types():
    c = connect()
    for table in TABLES:
        insert = f"INSERT INTO {table} ({LIST}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
        cursor = c.cursor()
        cursor.execute(insert, matrix.row(1, 1))
        cursor.executemany(insert, [matrix.row(t, i) for t in (2, 3) for i in range(5)])
        assert cursor.rowcount == 10
        got = one(c, f"SELECT {LIST} FROM {table} WHERE tenant = %s AND id = %s", (1, 1))
        assert got == matrix.row(1, 1), got
        assert one(c, f"SELECT {LIST} FROM {table} ORDER BY tenant DESC, id LIMIT 1") == matrix.row(3, 0)
        totals = one(c, f"SELECT sum(amount), max(day), count(DISTINCT key) FROM {table} WHERE at <= %s", (got[10],))
        assert totals == (got[3] * 11, got[7], 5), totals
        found = f"SELECT doc->'deep'->>'b' FROM {table} WHERE tenant = 2 AND doc @> %s"
        assert all_of(c, found, ({"a": [1]},)) == [("true",)] * 5
        # A list is an array to this driver: a JSON one is written by the application.
        changed = f"UPDATE {table} SET doc = CAST(%s AS jsonb), data = %s WHERE tenant = 2 RETURNING doc, data"
        assert all_of(c, changed, (json.dumps([1, {"b": None}]), b"\0\1")) == [([1, {"b": None}], b"\0\1")] * 5
        found = f"SELECT count(*) FROM {table} WHERE tenant = ANY(CAST(%s AS int[])) AND feeling = %s"
        assert one(c, found, ([1, 3], "bad")) == (6,)
        cursor.execute(f"SELECT tenant, at, feeling, tags FROM {table} WHERE tenant = 9")
        own = one(c, "SELECT 'mood'::regtype::oid")[0]
        assert [column[1] for column in cursor.description] == [23, 1184, own, 1009], cursor.description
        c.commit()
    one(c, "SELECT set_config('TimeZone', 'America/New_York', false)")
    for table in TABLES:
        at, written = one(c, f"SELECT at, at::text FROM {table} WHERE tenant = 1 AND id = %s", (1,))
        assert at == matrix.row(1, 1)[10] and written == "2024-12-31 18:30:00-05", (at, written)
    c.close()


def prepared_statements():
    c = native()
    for table in TABLES:
        find = c.prepare(f"SELECT id, at FROM {table} WHERE tenant = :tenant AND id = :id")
        several = c.prepare(f"SELECT tenant, count(*) FROM {table} WHERE tenant > :after GROUP BY tenant ORDER BY tenant")
        for i in range(12):
            assert find.run(tenant=2 + i % 2, id=i % 5) == [[i % 5, matrix.row(2, 1)[10]]]
            assert [column["name"] for column in find.columns] == ["id", "at"]
            assert several.run(after=i % 2 + 1) == [[2, 5], [3, 5]][i % 2:]
        find.close()
        assert error_of(lambda: find.run(tenant=2, id=1))["C"] == "26000"
        several.close()
        assert c.run(f"SELECT name FROM {table} WHERE tenant = :t AND id = :i", t=1, i=1) == [[matrix.row(1, 1)[2]]]
        assert c.run(f"SELECT id FROM {table} WHERE tenant = 1; SELECT count(*) FROM {table}") == [[1], [11]]
    c.close()


def transactions():
    c = connect()
    for table in TABLES:
        cursor = c.cursor()
        cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (20, 1)")
        cursor.execute("SAVEPOINT one")
        assert error_of(lambda: cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (1, 1)"))["C"] == "23505"
        assert error_of(lambda: cursor.execute("SELECT 1"))["C"] == "25P02"
        cursor.execute("ROLLBACK TO SAVEPOINT one")
        cursor.execute(f"INSERT INTO {table} (tenant, id) VALUES (22, 1)")
        c.commit()
        assert all_of(c, f"SELECT tenant FROM {table} WHERE tenant >= %s ORDER BY tenant", (20,)) == [(20,), (22,)]
        cursor.execute(f"DELETE FROM {table} WHERE tenant > 0")
        assert cursor.rowcount == 13
        c.rollback()
        cursor.execute(f"DELETE FROM {table} WHERE tenant >= 20")
        assert cursor.rowcount == 2
        c.commit()
    c.close()


def copies():
    c = connect()
    for table in TABLES:
        cursor = c.cursor()
        text = "".join(f'{30 + i % 5},{i},"x, {i}"\n' for i in range(2000))
        cursor.execute(f"COPY {table} (tenant, id, name) FROM STDIN (FORMAT csv)", stream=io.StringIO(text))
        assert cursor.rowcount == 2000
        cursor.execute(f"COPY {table} (tenant, id) FROM STDIN", stream=iter(["40\t1\n", "41\t1\n"]))
        out = io.StringIO()
        cursor.execute(f"COPY {table} (tenant, id, name) TO STDOUT (NULL 'nothing')", stream=out)
        lines = out.getvalue().splitlines()
        assert len(lines) == 11 + 2002 and "41\t1\tnothing" in lines, len(lines)
        out = io.BytesIO()
        cursor.execute(f"COPY (SELECT id FROM {table} WHERE tenant = 31 ORDER BY id) TO STDOUT", stream=out)
        assert out.getvalue().split()[:2] == [b"1", b"6"]
        wrong = io.StringIO("1\tx\n")
        bad = error_of(lambda: cursor.execute(f"COPY {table} (tenant, id) FROM STDIN", stream=wrong))
        assert bad["C"] == "22P02" and f"COPY {table}, line 1" in bad["W"], bad
        c.rollback()
        assert one(c, f"SELECT count(*) FROM {table}") == (11,)
        c.commit()
    c.close()


def cancel(c):
    """The driver keeps the key it was given at login and has no call that uses it: a user writes the request."""
    with socket.create_connection((options(DSN)["host"], options(DSN)["port"])) as s:
        s.sendall(struct.pack("!ii", 16, 80877102) + c._backend_key_data)
        assert s.recv(1) == b""


def cancels():
    c = connect(autocommit=True)
    for table in TABLES:
        for sql in (f"SELECT pg_sleep(60) FROM {table} WHERE tenant = 1", f"SELECT max(pg_sleep(60)::text) FROM {table}"):
            timer = threading.Timer(0.3, cancel, (c,))
            timer.start()
            assert error_of(lambda: one(c, sql))["C"] == "57014"
            timer.join()
            assert one(c, "SELECT 1") == (1,)
            c.cursor().execute("SET statement_timeout = '200ms'")
            assert error_of(lambda: one(c, sql))["C"] == "57014"
            c.cursor().execute("RESET statement_timeout")
    c.close()


def errors_with_their_fields():
    c = connect(autocommit=True)
    for table in TABLES:
        twice = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id) VALUES (%s, %s)", (1, 1)))
        assert [twice[field] for field in "SVCstn"] == ["ERROR", "ERROR", "23505", "use_pg8000", table, f"{table}_pkey"], twice
        assert twice["D"] == "Key (tenant, id)=(1, 1) already exists.", twice
        check = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id, name) VALUES (1, 500, '')"))
        assert (check["C"], check["n"]) == ("23514", "name_is_not_empty"), check
        null = error_of(lambda: one(c, f"INSERT INTO {table} (tenant, id) VALUES (1, NULL)"))
        assert (null["C"], null["c"], null["t"]) == ("23502", "id", table), null
        unknown = error_of(lambda: one(c, f"SELECT nothing FROM {table} WHERE tenant = %s", (1,)))
        assert (unknown["C"], unknown["P"]) == ("42703", "8"), unknown
        divided = error_of(lambda: one(c, f"SELECT 1 / (id - 1) FROM {table} WHERE tenant = %s", (1,)))
        assert divided["C"] == "22012", divided
        assert one(c, f"SELECT count(*) FROM {table}") == (11,)
    assert error_of(lambda: one(c, "SELECT * FROM nowhere"))["C"] == "42P01"
    assert error_of(lambda: one(c, "SELEC 1"))["C"] == "42601"
    c.cursor().execute("DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$")
    assert c.notices[-1][b"M"] == b"hello 1", c.notices
    c.close()


matrix.run(logs_in, types, prepared_statements, transactions, copies, cancels, errors_with_their_fields)
