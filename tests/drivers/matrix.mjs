// What the JavaScript programs of this folder share; the counterpart of matrix.py, which says what the arguments are.

import assert from "node:assert/strict";

export const [DSN, BEHIND, PASSWORD_DSN] = process.argv.slice(2);
export const TABLES = ["orders", "products", "notes"];

export const DOC = { a: [1, null, "ü"], deep: { b: true } };

/** Runs every subject, says how each went, and ends the process. */
export async function run(...subjects) {
    const failed = [];
    for (const subject of subjects) {
        const start = performance.now();
        try {
            await subject();
            console.log("ok", subject.name, `${Math.round(performance.now() - start)} ms`);
        } catch (error) {
            failed.push(subject.name);
            console.log("FAILED", subject.name);
            console.error(error);
        }
    }
    if (failed.length) console.error("failed:", failed);
    process.exit(failed.length ? 1 : 0);
}

/** The error with which `promise` ends. */
export async function errorOf(promise) {
    try {
        await promise;
    } catch (error) {
        return error;
    }
    assert.fail("this must fail");
}

export const sleep = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
