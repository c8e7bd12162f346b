"""Counts the system calls that some threads make for operations of one connection.

    count_syscalls.py NAME PORT THREAD[,THREAD ...] OPERATION [OPERATION ...]

NAME is printed with each line; bars hold for "tenantry". Exit status 1: a bar is not reached.
"""

import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter

import wire_client as wire

TEXT = "SELECT value, filler FROM bench WHERE tenant_id = 1 AND id = "
ONE = wire.bind("one", 1, 7) + wire.DESCRIBE + wire.EXECUTE
# What one repetition sends, write by write; how often it is repeated; most system calls for one.
OPERATIONS = {
    "simple": ([wire.query(TEXT + "7")], 1000, 6),
    "extended": ([wire.parse("", TEXT + "7") + wire.bind("") + wire.DESCRIBE + wire.EXECUTE + wire.SYNC], 1000, 6),
    "prepared": ([ONE + wire.SYNC], 1000, 6),
    "begin": ([wire.query("BEGIN"), wire.query(TEXT + "7"), wire.query("COMMIT")], 300, None),
    "pipeline": ([ONE * 100 + wire.SYNC], 50, 12),
    "rows": ([wire.query("SELECT * FROM bench WHERE tenant_id = 1")], 5, 300),
}
MEANINGS = {
    "simple": "a routed statement, simple protocol",
    "extended": "a routed statement, extended protocol",
    "prepared": "a routed statement, prepared",
    "begin": "BEGIN, a routed statement, COMMIT",
    "pipeline": "a pipeline of 100 prepared statements for one shard",
    "rows": "an answer of 100,000 rows",
}


def traced(threads, work):
    """Runs work() and returns the system calls that the threads made meanwhile, by name."""
    with tempfile.NamedTemporaryFile("r") as table:
        command = ["strace", "-c", "-o", table.name]
        for thread in threads:
            command += ["-p", thread]
        tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            # It says so for each thread once it is attached.
            for _ in threads:
                said = tracer.stderr.readline()
                if "attached" not in said:
                    raise SystemExit(f"strace could not attach: {said.strip()}")
            work()
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
        calls = Counter()
        for line in table:
            # % time, seconds, usecs/call, calls, errors (may be empty), name
            row = re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", line)
            if row and row[2] != "total":
                calls[row[2]] += int(row[1])
        return calls


def main():
    name, port, threads, *operations = sys.argv[1:]
    connection = wire.Connection(int(port))
    connection.run(wire.parse("one", "SELECT value, filler FROM bench WHERE tenant_id = $1 AND id = $2") + wire.SYNC)
    missed = False
    for operation in operations:
        writes, repeats, bar = OPERATIONS[operation]

        def repeat(times):
            for _ in range(times):
                for write in writes:
                    connection.run(write)

        repeat(3)
        calls = traced(threads.split(","), lambda: repeat(repeats))
        each = sum(calls.values()) / repeats
        parts = ", ".join(f"{call} {count / repeats:.1f}" for call, count in calls.most_common(5) if count >= repeats / 20)
        verdict = ""
        if bar is not None and name == "tenantry":
            # What strace's own coming and going adds is far less than a half.
            is_reached = each < bar + 0.5
            missed |= not is_reached
            verdict = f"bar {bar}: {'reached' if is_reached else 'not reached'}"
        print(f"{name:9} | {MEANINGS[operation]:51} | {each:7.1f} | {parts:60} | {verdict}", flush=True)
    return 1 if missed else 0


sys.exit(main())
