#!/usr/bin/env bash
# What routing costs: pgbench through Tenantry and straight to one worker, in turn, in one run on this machine.
#
#   through   pgbench ──> tenantry ──> worker 1 or 2    table bench, distributed by tenant
#   direct    pgbench ──────────────> worker 1          table bench_direct, plain, the same rows
#
# Prints for each script, protocol mode and number of clients the medians over all rounds: transactions per second both
# ways, their ratio, and the proxy's own CPU time per statement (user and system, from /proc/PID/stat).
# Everything runs on loopback; servers and data are thrown away at the end.
#
# Change it by: ROUNDS (3), DURATION (3, seconds of one measurement), SCRIPTS, MODES, CLIENTS, PORT (7832), TENANTRY.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${ROUNDS:-3}
duration=${DURATION:-3}
scripts=${SCRIPTS:-select update}
modes=${MODES:-simple extended prepared}
clients=${CLIENTS:-1 8 64}
port=${PORT:-7832}
tenantry=${TENANTRY:-target/release/tenantry}
tenants=1000
rows_per_tenant=100
# The bar that holds for now: this share of direct throughput for prepared selects of 64 clients.
bar=0.5

fail() {
    echo "compare: $1" >&2
    exit 1
}

[ -x "$tenantry" ] || fail "$tenantry is not there: run 'make build' first."
command -v pgbench >/dev/null || fail "pgbench is not installed: run 'make setup' first."

work=$(mktemp -d)
dev=
finish() {
    # An interrupted measurement must not leave servers behind.
    if [ -n "$dev" ]; then
        kill -TERM "$dev" 2>/dev/null || true
        wait "$dev" 2>/dev/null || true
    fi
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

dsn() { echo "postgresql://postgres@127.0.0.1:$1/postgres"; }

start_cluster() {
    "$tenantry" dev --workers 2 --port "$port" >"$work/dev.log" 2>&1 &
    dev=$!
    until grep -qs '^ready:' "$work/dev.log"; do
        kill -0 "$dev" 2>/dev/null || fail "tenantry dev ended: $(cat "$work/dev.log")"
        sleep 0.1
    done
}

# One table's rows as COPY text: tenant_id, id, value, filler.
rows() {
    awk -v tenants="$tenants" -v rows="$rows_per_tenant" 'BEGIN {
        for (t = 1; t <= tenants; t++) for (i = 1; i <= rows; i++)
            printf "%d\t%d\t%d\tsome text as rows of applications have it, number %d of tenant %d\n", t, i, 0, i, t
    }'
}

load() {
    local dsn=$1 table=$2 distribute=$3
    psql -X -q -v ON_ERROR_STOP=1 -d "$dsn" >/dev/null <<SQL
CREATE TABLE $table (tenant_id int, id int, value int NOT NULL, filler text, PRIMARY KEY (tenant_id, id));
$distribute
SQL
    rows | psql -X -q -v ON_ERROR_STOP=1 -d "$dsn" -c "\\copy $table FROM STDIN"
}

write_script() {
    local table=$1 script=$2 statement
    case $script in
    select) statement="SELECT value, filler FROM $table WHERE tenant_id = :tenant AND id = :id;" ;;
    update) statement="UPDATE $table SET value = value + 1 WHERE tenant_id = :tenant AND id = :id;" ;;
    *) fail "there is no script \"$script\"; choose of: select update" ;;
    esac
    printf '\\set tenant random(1, %d)\n\\set id random(1, %d)\n%s\n' "$tenants" "$rows_per_tenant" "$statement" \
        >"$work/$table-$script.sql"
}

# CPU time of the proxy so far, in clock ticks: fields 14 and 15, counted after the command's closing bracket.
proxy_ticks() { sed 's/.*) //' "/proc/$dev/stat" | awk '{ print $12 + $13 }'; }

# Prints of one pgbench run: the number of transactions, and transactions per second.
measure() {
    local dsn=$1 table=$2 script=$3 mode=$4 count=$5 threads log=$work/pgbench.log
    threads=$((count < $(nproc) ? count : $(nproc)))
    pgbench -n -M "$mode" -c "$count" -j "$threads" -T "$duration" -f "$work/$table-$script.sql" -d "$dsn" \
        >"$log" 2>&1 || fail "pgbench -M $mode -c $count, $script on $dsn failed: $(tail -n 5 "$log")"
    ! grep -q 'number of failed transactions: [1-9]' "$log" || fail "pgbench had failed transactions: $(cat "$log")"
    awk '/^number of transactions actually processed/ { n = $6 + 0 } /^tps = / { tps = $3 } END { print n, tps }' "$log"
}

median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

compare() {
    local script=$1 mode=$2 count=$3 round before after transactions tps through_dsn direct_dsn
    local results=$work/results-$script-$mode-$count
    through_dsn=$(dsn "$port") direct_dsn=$(dsn $((port + 2)))
    : >"$results.direct" && : >"$results.through" && : >"$results.ratio" && : >"$results.cpu"
    for ((round = 1; round <= rounds; round++)); do
        # In turn, so that whatever else the machine does falls on both.
        read -r _ tps < <(measure "$direct_dsn" bench_direct "$script" "$mode" "$count")
        local direct=${tps:?no measurement}
        before=$(proxy_ticks)
        read -r transactions tps < <(measure "$through_dsn" bench "$script" "$mode" "$count")
        after=$(proxy_ticks)
        echo "$direct" >>"$results.direct"
        echo "${tps:?no measurement}" >>"$results.through"
        awk "BEGIN { print $tps / $direct }" >>"$results.ratio"
        awk "BEGIN { print ($after - $before) / $ticks_per_second * 1e6 / $transactions }" >>"$results.cpu"
    done
    printf ' %-6s | %-8s | %7d | %12.0f | %13.0f | %5.2f | %19.1f\n' "$script" "$mode" "$count" \
        "$(median <"$results.direct")" "$(median <"$results.through")" "$(median <"$results.ratio")" "$(median <"$results.cpu")"
}

ticks_per_second=$(getconf CLK_TCK)
start_cluster
load "$(dsn "$port")" bench "SELECT create_distributed_table('bench', 'tenant_id');"
load "$(dsn $((port + 2)))" bench_direct ""
for script in $scripts; do
    write_script bench "$script"
    write_script bench_direct "$script"
done
for table in bench:$port bench_direct:$((port + 2)); do
    psql -X -q -d "$(dsn "${table#*:}")" -c "ANALYZE ${table%:*}" >/dev/null 2>&1 || true
done

echo "$(nproc) cores, $tenants tenants of $rows_per_tenant rows, medians of $rounds rounds of $duration s"
echo
echo " script | mode     | clients | direct (tps) | through (tps) | ratio | proxy CPU (us/stmt)"
echo "--------+----------+---------+--------------+---------------+-------+---------------------"
for script in $scripts; do
    for mode in $modes; do
        for count in $clients; do
            compare "$script" "$mode" "$count"
        done
    done
done
echo
if [ -s "$work/results-select-prepared-64.ratio" ]; then
    ratio=$(median <"$work/results-select-prepared-64.ratio")
    if awk "BEGIN { exit !($ratio >= $bar) }"; then verdict=reached; else verdict="not reached"; fi
    echo "bar: at least $bar of direct throughput for prepared selects of 64 clients: $verdict ($ratio)"
fi
