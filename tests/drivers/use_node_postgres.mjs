// node-postgres (pg, pg-cursor, pg-copy-streams) as applications use it. Arguments: see matrix.py.

import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import pg from "pg";
import Cursor from "pg-cursor";
import { from as copyFrom, to as copyTo } from "pg-copy-streams";
import { DOC, DSN, PASSWORD_DSN, TABLES, errorOf, run, sleep } from "./matrix.mjs";

pg.types.setTypeParser(1082, (text) => text); // date, as written

async function connect(dsn = DSN, options = {}) {
    const c = new pg.Client({ connectionString: dsn, ...options });
    await c.connect();
    return c;
}

async function withClient(work) {
    const c = await connect();
    c.on("error", () => {}); // Told by the query it ends.
    try {
        await work(c);
    } finally {
        await c.end();
    }
}

const COLUMNS = "tenant, id, name, amount, ratio, big, flag, day, clock, wall, at, span, key, doc, written, data, tags, numbers, feeling";
const AT = new Date("2024-12-31T23:30:00Z");
const KEY = "00000000-0000-0000-0000-000000000005";

function values(tenant, id) {
    return [tenant, id, `order ${id} 'ü'`, "12345.678", 1.5, (2n ** 60n).toString(), id % 2 === 0, "2024-02-29", "23:59:58.123456",
        "2024-05-06 07:08:09.123", AT, "3 days 04:00:00", KEY, DOC, DOC, Buffer.from([0, 255, id]), ["a", null, 'q"ü,'],
        [1, null, -3], "bad"];
}

async function logs_in() {
    await withClient(async (c) => assert.equal((await c.query("SELECT 1 AS one")).rows[0].one, 1));
    if (!PASSWORD_DSN) return;
    const c = await connect(PASSWORD_DSN);
    assert.equal((await c.query("SELECT current_user")).rows[0].current_user, "app");
    assert.equal((await c.query("SELECT count(*) FROM orders")).rows[0].count, "0");
    await c.end();
    const wrong = await errorOf(connect(PASSWORD_DSN.replace("correct", "wrong")));
    assert.equal(wrong.code, "28P01");
}

async function types() {
    await withClient(async (c) => {
        const places = values(0, 0).map((_, i) => `$${i + 1}`).join(", ");
        for (const table of TABLES) {
            for (const tenant of [1, 2, 3]) {
                for (let id = 0; id < 5; id++) {
                    const done = await c.query(`INSERT INTO ${table} (${COLUMNS}) VALUES (${places})`, values(tenant, id));
                    assert.deepEqual([done.command, done.rowCount], ["INSERT", 1]);
                }
            }
            // This driver reads few types as binary, some of them wrongly, and arrays for minutes.
            const binary = { text: `SELECT tenant, id, name FROM ${table} WHERE tenant = $1 AND id = $2`, binary: true };
            const row = (await c.query({ ...binary, values: [2, 3] })).rows[0];
            assert.deepEqual([row.tenant, row.id, row.name], [2, 3, "order 3 'ü'"]);
            {
                const got = (await c.query(`SELECT * FROM ${table} WHERE tenant = $1 AND id = $2`, [2, 3])).rows[0];
                assert.deepEqual([got.tenant, got.id, got.name], [2, 3, "order 3 'ü'"]);
                assert.equal(Number(got.amount), 12345.678);
                assert.equal(BigInt(got.big), 2n ** 60n);
                assert.equal(got.flag, false);
                assert.equal(got.at.getTime(), AT.getTime());
                assert.equal(got.ratio, 1.5);
                assert.equal(got.day, "2024-02-29");
                assert.equal(got.clock, "23:59:58.123456");
                assert.equal(got.wall.getMilliseconds(), 123);
                assert.deepEqual({ ...got.span }, { days: 3, hours: 4 });
                assert.equal(got.key, KEY);
                assert.deepEqual(got.doc, DOC);
                assert.deepEqual(got.written, DOC);
                assert.deepEqual([...got.data], [0, 255, 3]);
                assert.deepEqual(got.tags, ["a", null, 'q"ü,']);
                assert.deepEqual(got.numbers, [1, null, -3]);
                assert.equal(got.feeling, "bad");
            }
            const sums = await c.query(`SELECT tenant, sum(amount) AS amount, max(at) AS at FROM ${table} GROUP BY tenant ORDER BY tenant`);
            assert.deepEqual(sums.rows.map((r) => [r.tenant, r.amount, r.at]), [1, 2, 3].map((t) => [t, "61728.390", AT]));
            const found = await c.query(`SELECT id FROM ${table} WHERE tenant = ANY($1) AND doc @> $2`, [[1, 3], { deep: { b: true } }]);
            assert.equal(found.rowCount, 10);
            await c.query("SET TIME ZONE 'Asia/Tokyo'");
            assert.equal((await c.query(`SELECT at::text FROM ${table} WHERE tenant = 1 AND id = 1`)).rows[0].at, "2025-01-01 08:30:00+09");
            await c.query("RESET TIME ZONE");
            const fields = (await c.query({ text: `SELECT id, doc FROM ${table} WHERE tenant = 1`, rowMode: "array" })).fields;
            assert.deepEqual(fields.map((f) => [f.name, f.dataTypeID]), [["id", 23], ["doc", 3802]]);
            // OIDs are those that the catalog has, whoever answers.
            const { oid, mood } = (await c.query("SELECT $1::regclass::oid::int AS oid, 'mood'::regtype::oid::int AS mood", [table])).rows[0];
            for (const filter of ["tenant = 2", "tenant > 0"]) {
                for (const query of [`SELECT feeling FROM ${table} WHERE ${filter}`, { text: `SELECT feeling FROM ${table} WHERE ${filter} AND id >= $1`, values: [0] }]) {
                    const [field] = (await c.query(query)).fields;
                    assert.deepEqual([field.tableID, field.dataTypeID], [oid, mood]);
                }
            }
        }
    });
}

async function prepared_statements() {
    await withClient(async (c) => {
        for (const table of TABLES) {
            const find = { name: `find_${table}`, text: `SELECT id FROM ${table} WHERE tenant = $1 AND id = $2` };
            for (let i = 0; i < 30; i++) {
                assert.equal((await c.query({ ...find, values: [1 + (i % 3), i % 5] })).rows[0].id, i % 5);
            }
            const count = { name: `count_${table}`, text: `SELECT count(*) FROM ${table} WHERE id = $1` };
            for (let i = 0; i < 5; i++) assert.equal((await c.query({ ...count, values: [i] })).rows[0].count, "3");
            for (let i = 0; i < 300; i++) {
                const text = `SELECT id + ${i} AS n FROM ${table} WHERE tenant = $1 AND id = 1`;
                assert.equal((await c.query({ name: `many_${table}_${i}`, text, values: [1 + (i % 3)] })).rows[0].n, i + 1);
            }
            assert.equal((await errorOf(c.query({ ...find, values: ["x", 1] }))).code, "22P02");
            assert.equal((await c.query({ ...find, values: [1, 4] })).rows[0].id, 4);
        }
    });
}

async function batches() {
    await withClient(async (c) => {
        for (const table of TABLES) {
            // Queued in the driver, sent one after the other without waiting here.
            const answers = await Promise.all(
                Array.from({ length: 200 }, (_, i) => c.query(`SELECT id FROM ${table} WHERE tenant = $1 AND id = $2`, [1 + (i % 3), i % 5])));
            assert.deepEqual(answers.map((a) => a.rows[0].id), Array.from({ length: 200 }, (_, i) => i % 5));
            const several = await c.query(`SELECT 1 AS a; SELECT count(*) FROM ${table}; SELECT id FROM ${table} WHERE tenant = 1 AND id = 2`);
            assert.deepEqual(several.map((r) => r.rows[0]), [{ a: 1 }, { count: "15" }, { id: 2 }]);
            await c.query("BEGIN");
            const rows = Array.from({ length: 50 }, (_, i) => `(${10 + (i % 4)}, ${i})`).join(", ");
            const done = await c.query(`INSERT INTO ${table} (tenant, id) VALUES ${rows} RETURNING tenant`);
            assert.equal(done.rowCount, 50);
            await c.query("ROLLBACK");
        }
    });
}

async function transactions() {
    await withClient(async (c) => {
        for (const table of TABLES) {
            const insert = `INSERT INTO ${table} (tenant, id) VALUES ($1, 1)`;
            await c.query("BEGIN ISOLATION LEVEL REPEATABLE READ");
            await c.query(insert, [20]);
            await c.query("SAVEPOINT a");
            await c.query(insert, [21]);
            assert.equal((await errorOf(c.query(insert, [21]))).code, "23505");
            assert.equal((await errorOf(c.query("SELECT 1"))).code, "25P02");
            await c.query("ROLLBACK TO SAVEPOINT a");
            await c.query(insert, [22]);
            assert.equal((await c.query("SHOW transaction_isolation")).rows[0].transaction_isolation, "repeatable read");
            await c.query("COMMIT");
            const left = await c.query(`SELECT tenant FROM ${table} WHERE tenant >= 20 ORDER BY tenant`);
            assert.deepEqual(left.rows.map((r) => r.tenant), [20, 22]);
            assert.equal((await c.query(`DELETE FROM ${table} WHERE tenant >= 20`)).rowCount, 2);
            await c.query("BEGIN READ ONLY");
            assert.equal((await c.query(`SELECT count(*) FROM ${table} WHERE tenant = 1`)).rows[0].count, "5");
            assert.equal((await errorOf(c.query(insert, [1]))).code, "25006");
            await c.query("ROLLBACK");
        }
    });
}

async function copies() {
    await withClient(async (c) => {
        for (const table of TABLES) {
            await c.query("BEGIN");
            const rows = Array.from({ length: 5000 }, (_, i) => `${30 + (i % 7)},${i},"x, ${i}"\n`);
            const stream = c.query(copyFrom(`COPY ${table} (tenant, id, name) FROM STDIN (FORMAT csv)`));
            await pipeline(Readable.from(rows), stream);
            assert.equal(stream.rowCount, 5000);
            for (const what of [table, `(SELECT * FROM ${table} WHERE tenant = 31)`]) {
                const pieces = [];
                for await (const piece of c.query(copyTo(`COPY ${what} TO STDOUT`))) pieces.push(piece);
                const lines = Buffer.concat(pieces).toString().trimEnd().split("\n").length;
                assert.equal(lines, what === table ? 5015 : 715);
            }
            await c.query("ROLLBACK");
            const bad = await errorOf(pipeline(Readable.from(["1\t1\n"]), c.query(copyFrom(`COPY ${table} (tenant, id) FROM STDIN`))));
            assert.equal(bad.code, "23505");
            assert.equal((await c.query(`SELECT count(*) FROM ${table}`)).rows[0].count, "15");
        }
    });
}

async function cancels() {
    const [c, other] = [await connect(), await connect()];
    for (const table of TABLES) {
        for (const text of [`SELECT pg_sleep(60) FROM ${table} WHERE tenant = 1`, `SELECT max(pg_sleep(60)::text) FROM ${table}`]) {
            const query = new pg.Query(text);
            const stopped = new Promise((_, fail) => query.on("error", fail));
            c.query(query);
            await sleep(300);
            new pg.Client({ connectionString: DSN }).cancel(c, query);
            assert.equal((await errorOf(stopped)).code, "57014");
            assert.equal((await other.query(`SELECT count(*) FROM ${table} WHERE tenant = 1`)).rows[0].count, "5");
            assert.equal((await c.query("SELECT 1 AS one")).rows[0].one, 1);
        }
    }
    await c.end();
    await other.end();
    const hasty = await connect(DSN, { statement_timeout: 200 });
    assert.equal((await errorOf(hasty.query("SELECT pg_sleep(60) FROM orders WHERE tenant = 1"))).code, "57014");
    await hasty.end();
}

async function errors_with_their_fields() {
    await withClient(async (c) => {
        const schema = (await c.query("SELECT current_schema AS s")).rows[0].s;
        for (const table of TABLES) {
            const twice = await errorOf(c.query(`INSERT INTO ${table} (tenant, id) VALUES ($1, 1)`, [1]));
            assert.deepEqual([twice.code, twice.schema, twice.table, twice.constraint, twice.detail, twice.severity],
                ["23505", schema, table, `${table}_pkey`, "Key (tenant, id)=(1, 1) already exists.", "ERROR"]);
            const check = await errorOf(c.query(`INSERT INTO ${table} (tenant, id, name) VALUES (1, 500, '')`));
            assert.deepEqual([check.code, check.constraint], ["23514", "name_is_not_empty"]);
            const empty = await errorOf(c.query(`INSERT INTO ${table} (tenant, id) VALUES ($1, $2)`, [1, null]));
            assert.deepEqual([empty.code, empty.column, empty.table], ["23502", "id", table]);
            const unknown = await errorOf(c.query(`SELECT nothing FROM ${table} WHERE tenant = $1`, [1]));
            assert.deepEqual([unknown.code, unknown.position], ["42703", "8"]);
            const word = await errorOf(c.query(`SELECT id FROM ${table} WHERE tenant = 1 AND feeling = 'great'`));
            assert.equal(word.code, "22P02");
        }
        const notices = [];
        c.on("notice", (notice) => notices.push(notice.message));
        await c.query("DO $$ BEGIN RAISE NOTICE 'hello %', 1; END $$");
        assert.deepEqual(notices, ["hello 1"]);
    });
}

async function cursors() {
    await withClient(async (c) => {
        for (const table of TABLES) {
            for (const [text, values] of [[`SELECT id FROM ${table} WHERE tenant = $1 ORDER BY id`, [2]], [`SELECT id FROM ${table} WHERE tenant > $1 ORDER BY tenant DESC, id`, [2]]]) {
                const cursor = c.query(new Cursor(text, values));
                const ids = [];
                for (let rows = await cursor.read(2); rows.length; rows = await cursor.read(2)) ids.push(...rows.map((r) => r.id));
                assert.deepEqual(ids, [0, 1, 2, 3, 4]);
                const closed = c.query(new Cursor(text, values));
                assert.equal((await closed.read(1)).length, 1);
                await closed.close();
            }
            assert.equal((await c.query(`SELECT count(*) FROM ${table}`)).rows[0].count, "15");
        }
    });
}

async function a_pool() {
    const pool = new pg.Pool({ connectionString: DSN, max: 5 });
    const counts = await Promise.all(Array.from({ length: 150 }, (_, i) =>
        pool.query(`SELECT count(*) FROM ${TABLES[i % 3]} WHERE tenant = $1`, [1 + (i % 3)])));
    assert.ok(counts.every((answer) => answer.rows[0].count === "5"));
    const c = await pool.connect();
    assert.equal((await errorOf(c.query("SELECT 1/0"))).code, "22012");
    c.release();
    await pool.end();
}

await run(logs_in, types, prepared_statements, batches, transactions, copies, cancels, errors_with_their_fields, cursors, a_pool);
