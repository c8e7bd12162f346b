// postgres.js as applications use it. Arguments: see matrix.py.

import assert from "node:assert/strict";
import postgres from "postgres";
import { DOC, DSN, PASSWORD_DSN, TABLES, errorOf, run, sleep } from "./matrix.mjs";

const sql = postgres(DSN, { max: 4, onnotice: () => {} });
const AT = new Date("2024-12-31T23:30:00.123Z");
const KEY = "00000000-0000-0000-0000-000000000005";

function order(tenant, id) {
    return { tenant, id, name: `order ${id} 'ü'`, amount: "12345.678", big: (2n ** 60n).toString(), flag: id % 2 === 0,
        at: AT, key: KEY, doc: sql.json(DOC), written: sql.json(DOC), data: Buffer.from([0, 255, id]), tags: ["a", 'q"ü,'],
        numbers: [1, -3], feeling: "bad" };
}

const count = async (table, where = sql``) => (await sql`SELECT count(*)::int AS n FROM ${sql(table)} ${where}`)[0].n;

async function logs_in() {
    assert.equal((await sql`SELECT 1 AS one`)[0].one, 1);
    if (!PASSWORD_DSN) return;
    const app = postgres(PASSWORD_DSN, { max: 1 });
    assert.equal((await app`SELECT current_user`)[0].current_user, "app");
    await app.end();
    const wrong = postgres(PASSWORD_DSN.replace("correct", "wrong"), { max: 1 });
    assert.equal((await errorOf(wrong`SELECT 1`)).code, "28P01");
    await wrong.end();
}

// It leaves the types of parameters open, as 0, and asks what they are.
async function types_and_lists() {
    for (const table of TABLES) {
        const rows = [1, 2, 3].flatMap((tenant) => [...Array(5).keys()].map((id) => order(tenant, id)));
        assert.equal((await sql`INSERT INTO ${sql(table)} ${sql(rows)} RETURNING id`).length, 15);
        const [got] = await sql`SELECT * FROM ${sql(table)} WHERE tenant = ${2} AND id = ${3}`;
        const want = { ...order(2, 3), doc: DOC, written: DOC };
        for (const [column, value] of Object.entries(want)) assert.deepEqual(got[column], value, `${table}.${column}`);
        const ids = await sql`SELECT id FROM ${sql(table)} WHERE tenant IN ${sql([1, 3])} AND id < ${2} ORDER BY tenant, id`;
        assert.deepEqual(ids.map((row) => row.id), [0, 1, 0, 1]);
        const found = await sql`SELECT tenant FROM ${sql(table)} WHERE at = ${AT} AND doc @> ${sql.json({ a: [1] })} AND id = ${1}`;
        assert.equal(found.length, 3);
        const changed = await sql`UPDATE ${sql(table)} SET ${sql({ name: "new", feeling: "good" })} WHERE tenant = ${1} RETURNING feeling`;
        assert.deepEqual(changed.map((row) => row.feeling), Array(5).fill("good"));
        assert.equal((await sql`UPDATE ${sql(table)} SET flag = ${true} WHERE id = ANY(${[1, 2]})`).count, 6);
        const columns = (await sql`SELECT tenant, feeling FROM ${sql(table)} WHERE tenant = ${1}`.describe()).columns;
        assert.deepEqual(columns.map((column) => column.name), ["tenant", "feeling"]);
    }
    assert.deepEqual((await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()).map((rows) => Object.values(rows[0])[0]), [1, 2]);
}

async function transactions() {
    for (const table of TABLES) {
        await sql.begin(async (t) => {
            await t`INSERT INTO ${t(table)} (tenant, id) VALUES (${1}, 100)`;
            const inner = t.savepoint(async (s) => {
                await s`INSERT INTO ${s(table)} (tenant, id) VALUES (${2}, 100)`;
                await s`INSERT INTO ${s(table)} (tenant, id) VALUES (${2}, 100)`;
            });
            assert.equal((await errorOf(inner)).code, "23505");
            await t`INSERT INTO ${t(table)} (tenant, id) VALUES (${3}, 100)`;
        });
        const tenants = await sql`SELECT tenant FROM ${sql(table)} WHERE id = 100 ORDER BY tenant`;
        assert.deepEqual(tenants.map((row) => row.tenant), [1, 3]);
        await errorOf(sql.begin(async (t) => {
            await t`DELETE FROM ${t(table)} WHERE id = 100`;
            throw new Error("not today");
        }));
        assert.equal(await count(table, sql`WHERE id = 100`), 2);
        await sql`DELETE FROM ${sql(table)} WHERE id = 100`;
    }
    // Queries that nobody waits for in between leave together.
    const own = await sql.reserve();
    const answers = await Promise.all([...Array(200).keys()].map((i) =>
        own`SELECT ${i}::int AS i, id FROM orders WHERE tenant = ${1 + i % 3} AND id = ${i % 5}`));
    answers.forEach(([row], i) => assert.deepEqual({ ...row }, { i, id: i % 5 }));
    await own`SET app.visitor = 'someone'`;
    assert.equal((await own`SELECT current_setting('app.visitor') AS it`)[0].it, "someone");
    own.release();
}

async function cursors_and_copies() {
    for (const table of TABLES) {
        for (const [where, want] of [[sql`WHERE tenant = ${1}`, 5], [sql`ORDER BY tenant, id`, 15], [sql``, 15]]) {
            let rows = 0;
            for await (const some of sql`SELECT id FROM ${sql(table)} ${where}`.cursor(4)) rows += some.length;
            assert.equal(rows, want);
        }
        const into = await sql`COPY ${sql(table)} (tenant, id, name) FROM STDIN`.writable();
        await new Promise((done, failed) => {
            into.on("finish", done).on("error", failed);
            for (let id = 0; id < 500; id++) into.write(`${10 + id % 7}\t${id}\tü\n`);
            into.end();
        });
        assert.equal(await count(table, sql`WHERE tenant >= 10`), 500);
        let text = "";
        for await (const piece of await sql`COPY ${sql(table)} (id) TO STDOUT`.readable()) text += piece;
        assert.equal(text.trim().split("\n").length, 515);
        await sql`DELETE FROM ${sql(table)} WHERE tenant >= 10`;
    }
}

async function errors_and_cancel() {
    for (const table of TABLES) {
        const twice = await errorOf(sql`INSERT INTO ${sql(table)} (tenant, id) VALUES (1, 1), (2, 2)`);
        assert.deepEqual([twice.code, twice.table_name], ["23505", table]);
        assert.equal((await errorOf(sql`SELECT nothing FROM ${sql(table)} WHERE tenant = ${1}`)).code, "42703");
        const sleeping = sql`SELECT pg_sleep(60) FROM ${sql(table)} WHERE tenant = ${1}`;
        const cancelled = errorOf(sleeping);
        await sleep(300);
        await sleeping.cancel();
        assert.equal((await cancelled).code, "57014");
    }
    assert.equal(await count("orders"), 15);
}

async function notifications() {
    const heard = new Promise((done) => sql.listen("js_channel", done, async () => await sql.notify("js_channel", "hello")));
    assert.equal(await heard, "hello");
}

await run(logs_in, types_and_lists, transactions, cursors_and_copies, errors_and_cancel, notifications);
