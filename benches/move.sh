#!/usr/bin/env bash
# What clients notice of a whole rebalance: two workers become four while paced clients write to single tenants.
#
#   load      table documents, SIZES bytes in all, one colocation group with the clients' ledger
#   clients   20, together 400 statements a second, each begun at its time (benches/paced_writers.rs keeps the ledger)
#   change    tenantry cluster edit --workers 4, until it is done
#   compare   what one worker has left by pg_dump | psql, from server to server, for the rate of copying
#
# Prints for each size: bytes moved and how long that took, what clients waited (median, p99, p99.9, longest), the holds
# of the moves (p99, longest), errors, confirmed writes that are missing or doubled, the rate of copying beside
# pg_dump | psql, and which bars are reached. Everything runs on loopback and is thrown away at the end.
#
# Change it by: SIZES (megabytes: "100 200"), CLIENTS (20), RATE (400, statements a second), SYNC (on, off:
# synchronous_commit of the workers), PORT (8132), TENANTRY, WRITERS. Exit status 1: a bar is missed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

sizes=${SIZES:-100 200}
clients=${CLIENTS:-20}
rate=${RATE:-400}
sync=${SYNC:-on}
port=${PORT:-8132}
tenantry=${TENANTRY:-target/release/tenantry}
writers=${WRITERS:-target/release/examples/paced_writers}
tenants=1000
lull=5

fail() {
    echo "move: $1" >&2
    exit 1
}

[ -x "$tenantry" ] || fail "$tenantry is not there: run 'make build' first."
[ -x "$writers" ] || fail "$writers is not there: run 'cargo build --release --examples' first."

work=$(mktemp -d)
chmod 755 "$work"
cluster=
stop_cluster() {
    [ -z "$cluster" ] || kill -TERM "$cluster" 2>/dev/null || true
    [ -z "$cluster" ] || wait "$cluster" 2>/dev/null || true
    cluster=
}
finish() {
    stop_cluster
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

dsn() { echo "postgresql://postgres@127.0.0.1:$1/${2:-postgres}"; }
ask() { psql -X -q -t -A -v ON_ERROR_STOP=1 -d "$(dsn "$1" "${3:-postgres}")" -c "$2"; }
now_ms() { date +%s%3N; }
missed=0
bar() {
    local what=$1 value=$2 relation=$3 limit=$4
    if awk -v v="$value" -v l="$limit" -v r="$relation" 'BEGIN { exit !(r == "<=" ? v <= l : v >= l) }'; then
        echo "  reached  $what: $value ($relation $limit)"
    else
        echo "  MISSED   $what: $value ($relation $limit)"
        missed=1
    fi
}

measure() {
    local megabytes=$1 worker start
    "$tenantry" dev --workers 2 --port "$port" >"$work/dev.log" 2>&1 &
    cluster=$!
    until grep -qs '^ready:' "$work/dev.log"; do
        kill -0 "$cluster" 2>/dev/null || fail "tenantry dev ended: $(cat "$work/dev.log")"
        sleep 0.1
    done
    for worker in $((port + 2)) $((port + 3)); do
        ask "$worker" "ALTER SYSTEM SET synchronous_commit = $sync" && ask "$worker" "SELECT pg_reload_conf()" >/dev/null
    done
    ask "$port" "CREATE TABLE documents (tenant_id int, id bigint, body text NOT NULL, PRIMARY KEY (tenant_id, id))"
    ask "$port" "CREATE TABLE ledger (tenant_id int, client int, number bigint, note text, PRIMARY KEY (tenant_id, client, number))"
    ask "$port" "CREATE TABLE balance (tenant_id int PRIMARY KEY, entries bigint NOT NULL)"
    for table in documents ledger balance; do
        ask "$port" "SELECT create_distributed_table('$table', 'tenant_id')" >/dev/null
    done
    # About a kilobyte each, which compresses badly.
    local each=$((megabytes * 1000 / tenants))
    psql -X -q -d "$(dsn "$((port + 1))")" -c "COPY (SELECT t, i, (SELECT string_agg(md5(random()::text || part || t || i), '')
        FROM generate_series(1, 30) part) FROM generate_series(1, $tenants) t, generate_series(1, $each) i) TO STDOUT" |
        psql -X -q -d "$(dsn "$port")" -c "COPY documents FROM STDIN"
    psql -X -q -d "$(dsn "$((port + 1))")" -c "COPY (SELECT t, 0 FROM generate_series(1, $tenants) t) TO STDOUT" |
        psql -X -q -d "$(dsn "$port")" -c "COPY balance FROM STDIN"

    mkfifo "$work/end"
    "$writers" "$(dsn "$port")" "$clients" "$rate" <"$work/end" >"$work/clients" 2>"$work/errors" &
    local writing=$!
    exec 9>"$work/end"
    sleep "$lull"
    start=$(now_ms)
    "$tenantry" cluster edit --workers 4 --port "$port" >"$work/edit" 2>&1 || fail "the change of size failed: $(cat "$work/edit")"
    local took=$(($(now_ms) - start))
    sleep "$lull"
    exec 9>&-
    wait "$writing" || fail "the clients ended with an error: $(cat "$work/errors")"
    rm "$work/end"

    local moves bytes moving_ms copying_ms hold_p99 hold_max
    read -r moves bytes moving_ms copying_ms hold_p99 hold_max < <(ask "$((port + 1))" "SELECT count(*), sum(bytes_copied),
        round(extract(epoch FROM max(finished_at) - min(started_at)) * 1000), sum(copy_microseconds) / 1000,
        round((percentile_cont(0.99) WITHIN GROUP (ORDER BY hold_microseconds) / 1000)::numeric, 1),
        round(max(hold_microseconds) / 1000.0, 1) FROM tenantry.shard_move WHERE hold_microseconds IS NOT NULL" | tr '|' ' ')

    # What one worker still has of documents, by hand: into an empty database of another.
    ask "$((port + 3))" "CREATE DATABASE by_hand"
    start=$(now_ms)
    { ask "$((port + 2))" "SELECT format('CREATE SCHEMA %I;', nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE relname = 'documents'"; pg_dump -t '*.documents' -d "$(dsn "$((port + 2))")"; } | tee >(wc -c >"$work/by_hand") |
        psql -X -q -v ON_ERROR_STOP=1 -d "$(dsn "$((port + 3))" by_hand)" >/dev/null
    local by_hand_ms=$(($(now_ms) - start)) rate_moves rate_copies rate_by_hand
    rate_copies=$(awk -v b="$bytes" -v t="$copying_ms" 'BEGIN { printf "%.1f", b / t / 1000 }')
    rate_moves=$(awk -v b="$bytes" -v t="$moving_ms" 'BEGIN { printf "%.1f", b / t / 1000 }')
    rate_by_hand=$(awk -v b="$(cat "$work/by_hand")" -v t="$by_hand_ms" 'BEGIN { printf "%.1f", b / t / 1000 }')

    echo "$megabytes MB, $clients clients, $rate statements a second, synchronous_commit $sync"
    echo "  $moves moves, $((bytes / 1000000)) MB in $moving_ms ms ($took ms with the start of two servers), holds: p99 $hold_p99 ms, longest $hold_max ms"
    echo "  clients: $(cat "$work/clients")"
    echo "  rate: copies $rate_copies MB/s, moves from beginning to end $rate_moves MB/s, clients at work; pg_dump | psql $rate_by_hand MB/s, clients gone"
    field() { grep -oP "$1 \K[0-9.]+" "$work/clients"; }
    bar "p99 of holds (ms)" "$hold_p99" "<=" 50
    bar "longest client wait (ms)" "$(field longest_ms)" "<=" 150
    bar "client errors" "$(field errors)" "<=" 0
    bar "confirmed writes missing" "$(field missing)" "<=" 0
    bar "confirmed writes doubled" "$(field doubled)" "<=" 0
    bar "balances that are wrong" "$(field balances_wrong)" "<=" 0
    bar "rate of copies to that of pg_dump | psql" "$(awk -v m="$rate_copies" -v h="$rate_by_hand" 'BEGIN { printf "%.2f", m / h }')" ">=" 0.5
    stop_cluster
}

for size in $sizes; do
    measure "$size"
done
exit "$missed"
