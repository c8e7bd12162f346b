#!/usr/bin/env bash
# How many system calls one connection costs, counted by strace: Tenantry's data threads, and PgBouncer for comparison.
#
# Only the threads that serve clients are traced, so what a cluster does by itself is not counted. Each line is the
# mean over many repetitions of one operation on one connection, with the calls that make up most of it.
#
# Change it by: PORT (7932), TENANTRY, TARGETS (tenantry pgbouncer), OPERATIONS.
# Exit status 1: Tenantry does not reach a bar.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-7932}
tenantry=${TENANTRY:-target/release/tenantry}
targets=${TARGETS:-tenantry pgbouncer}
operations=${OPERATIONS:-simple extended prepared begin pipeline rows}

fail() {
    echo "syscalls: $1" >&2
    exit 1
}

[ -x "$tenantry" ] || fail "$tenantry is not there: run 'make build' first."
command -v strace >/dev/null || fail "strace is not installed: run 'make setup' first."
pgbouncer=$(command -v pgbouncer || { [ ! -x /usr/sbin/pgbouncer ] || echo /usr/sbin/pgbouncer; })
strace -qq -c -o /dev/null true 2>/dev/null || fail "strace is not permitted to trace here."

work=$(mktemp -d)
chmod 755 "$work"
pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

dsn() { echo "postgresql://postgres@127.0.0.1:$1/postgres"; }

"$tenantry" dev --workers 1 --port "$port" >"$work/dev.log" 2>&1 &
pids+=($!)
proxy=$!
until grep -qs '^ready:' "$work/dev.log"; do
    kill -0 "$proxy" 2>/dev/null || fail "tenantry dev ended: $(cat "$work/dev.log")"
    sleep 0.1
done
table="CREATE TABLE bench (tenant_id int, id int, value int NOT NULL, filler text, PRIMARY KEY (tenant_id, id))"
rows="INSERT INTO bench SELECT 1, i, i, 'some text as rows of applications have it' FROM generate_series(1, 100000) i"
psql -X -q -v ON_ERROR_STOP=1 -d "$(dsn "$port")" -c "$table" -c "SELECT create_distributed_table('bench', 'tenant_id')" \
    -c "$rows" >/dev/null
psql -X -q -v ON_ERROR_STOP=1 -d "$(dsn $((port + 2)))" -c "$table" -c "$rows" >/dev/null

bouncer=
if [[ " $targets " == *" pgbouncer "* ]]; then
    [ -n "$pgbouncer" ] || fail "pgbouncer is not installed: run 'make setup' first."
    cat >"$work/pgbouncer.ini" <<INI
[databases]
postgres = host=127.0.0.1 port=$((port + 2)) dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $((port + 10))
unix_socket_dir =
auth_type = any
pool_mode = session
INI
    as=()
    [ "$(id -u)" -ne 0 ] || as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
    "${as[@]}" "$pgbouncer" -q "$work/pgbouncer.ini" >"$work/pgbouncer.log" 2>&1 &
    pids+=($!)
    bouncer=$!
    until psql -X -q -d "$(dsn $((port + 10)))" -c 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$bouncer" 2>/dev/null || fail "pgbouncer ended: $(cat "$work/pgbouncer.log")"
        sleep 0.1
    done
fi

# The threads that serve clients.
threads_of() {
    case $1 in
    tenantry) grep -l '^data-' /proc/"$proxy"/task/*/comm | sed 's|/comm||; s|.*/||' ;;
    pgbouncer) echo "$bouncer" ;;
    esac
}

missed=0
for target in $targets; do
    case $target in tenantry) at=$port ;; *) at=$((port + 10)) ;; esac
    mapfile -t threads < <(threads_of "$target")
    # shellcheck disable=SC2086 # several operations
    python3 benches/count_syscalls.py "$target" "$at" "$(IFS=,; echo "${threads[*]}")" $operations || missed=$?
done
[ "$missed" -le 1 ] || fail "counting failed"
exit "$missed"
