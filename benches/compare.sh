#!/usr/bin/env bash
# What a statement costs on its way: pgbench straight to a worker, and through each of three programs before that same
# worker, in turn, in one run on this machine.
#
#   direct      pgbench ───────────────> worker
#   floor       pgbench ─> relay_floor > worker    only copies bytes (benches/relay_floor.rs)
#   pgbouncer   pgbench ─> PgBouncer ──> worker    transaction pooling; session pooling for prepared statements
#   tenantry    pgbench ─> tenantry ───> worker    routed by tenant
#
# All three have one thread for clients, as PgBouncer has; THREADS gives Tenantry and the floor more.
# Everywhere the same texts over the same rows: table bench, plain on the worker itself, distributed through Tenantry. A table of
# many shards costs the servers more than one plain table does. TABLES=32 has everybody but Tenantry use 32 tables of the same rows,
# as if clients knew the shards and named them themselves.
# Prints medians over all rounds of throughput, mean and p99 latency and the program's CPU time per statement (user and
# system, from /proc/PID/stat), how often it slept, the servers' CPU time and the cores' idle time per statement, ratios of the
# same round, memory with idle clients, and which bars are reached.
# Everything runs on loopback; servers and data are thrown away at the end.
#
# Before its rounds each program runs for WARM_UP (4) seconds: a connection prepares a statement once for each shard group.
#
# Change it by: ROUNDS (5), DURATION (2, seconds of one measurement), SCRIPTS, MODES, CLIENTS, IDLE (numbers of idle
# clients, "" for none), TARGETS, THREADS (1), IO (auto: io-uring where the kernel lets us; epoll), SHARE_UNNAMED (auto), ADAPTIVE (true), TABLES (1), SHARDS (32, those of Tenantry), SIZE (64, Tenantry's connections to the worker), PORT (7832), TENANTRY, RELAY, RESULTS (a file that keeps every single measurement).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

rounds=${ROUNDS:-5}
duration=${DURATION:-2}
warm_up=${WARM_UP:-4}
scripts=${SCRIPTS:-select transaction}
modes=${MODES:-simple extended prepared}
clients=${CLIENTS:-8 64}
idle=${IDLE-64 1000 10000}
targets=${TARGETS:-direct floor pgbouncer tenantry}
threads=${THREADS:-1}
io=${IO:-auto}
port=${PORT:-7832}
tenantry=${TENANTRY:-target/release/tenantry}
relay=${RELAY:-target/release/examples/relay_floor}
tenants=1000
rows_per_tenant=100
share_unnamed=${SHARE_UNNAMED:-auto}
adaptive=${ADAPTIVE:-true}
# Most connections to the worker, one for each client; ADAPTIVE=false opens them all, so that nobody waits for one.
pool_size=64
tables=${TABLES:-1}
shards=${SHARDS:-32}

fail() {
    echo "compare: $1" >&2
    exit 1
}

has_target() { [[ " $targets " == *" $1 "* ]]; }

[ -x "$tenantry" ] || fail "$tenantry is not there: run 'make build' first."
command -v pgbench >/dev/null || fail "pgbench is not installed: run 'make setup' first."
! has_target floor || [ -x "$relay" ] || fail "$relay is not there: run 'cargo build --release --examples' first."
pgbouncer=$(command -v pgbouncer || { [ ! -x /usr/sbin/pgbouncer ] || echo /usr/sbin/pgbouncer; })
! has_target pgbouncer || [ -n "$pgbouncer" ] || fail "pgbouncer is not installed: run 'make setup' first."
# Every idle client is an open file, here and in each program.
ulimit -n "$(ulimit -Hn)"

work=$(mktemp -d)
chmod 755 "$work"
declare -A pid_of=()
finish() {
    # An interrupted measurement must not leave servers behind.
    local pid
    # The servers last: proxies would complain of their loss.
    for pid in ${pid_of[tenantry]:-} ${pid_of[floor]:-} ${pid_of[pooler]:-} ${pid_of[session]:-} ${pid_of[cluster]:-}; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

worker_port=$((port + 2))
declare -A port_of=([direct]=$worker_port [tenantry]=$((port + 13)) [floor]=$((port + 10)) [pooler]=$((port + 11)) [session]=$((port + 12)))
dsn() { echo "postgresql://postgres@127.0.0.1:$1/postgres"; }

# Where a target's pgbench goes: PgBouncer has a process for each way of pooling.
process_of() {
    case $1-$2 in
    pgbouncer-prepared) echo session ;;
    pgbouncer-*) echo pooler ;;
    *) echo "$1" ;;
    esac
}

start_cluster() {
    "$tenantry" dev --workers 1 --port "$port" >"$work/dev.log" 2>&1 &
    pid_of[cluster]=$!
    until grep -qs '^ready:' "$work/dev.log"; do
        kill -0 "${pid_of[cluster]}" 2>/dev/null || fail "tenantry dev ended: $(cat "$work/dev.log")"
        sleep 0.1
    done
}

# A second proxy over the same catalog, with as many threads as are wished.
start_tenantry() {
    cat >"$work/tenantry.toml" <<TOML
[listen]
port = ${port_of[tenantry]}
auth = "trust-loopback"
threads = $threads
io = "$io"
[coordinator]
port = $((port + 1))
user = "postgres"
[pool]
size = ${SIZE:-$pool_size}
share_unnamed = "$share_unnamed"
adaptive = $adaptive
node_connections = $((2 * (pool_size + 16)))
TOML
    "$tenantry" serve --config "$work/tenantry.toml" >"$work/tenantry.log" 2>&1 &
    pid_of[tenantry]=$!
    wait_for_server tenantry
}

wait_for_server() {
    local name=$1
    until psql -X -q -d "$(dsn "${port_of[$name]}")" -c 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "${pid_of[$name]}" 2>/dev/null || fail "$name ended: $(cat "$work/$name.log")"
        sleep 0.1
    done
}

start_floor() {
    "$relay" "${port_of[floor]}" "$worker_port" "$threads" >"$work/floor.log" 2>&1 &
    pid_of[floor]=$!
    wait_for_server floor
}

start_pgbouncer() {
    local name=$1 mode=$2 as=()
    cat >"$work/$name.ini" <<INI
[databases]
postgres = host=127.0.0.1 port=$worker_port dbname=postgres user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port_of[$name]}
unix_socket_dir =
auth_type = any
pool_mode = $mode
default_pool_size = $pool_size
max_client_conn = 12000
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
INI
    # It refuses to run as root.
    [ "$(id -u)" -ne 0 ] || as=(setpriv --reuid=nobody --regid=nogroup --clear-groups)
    "${as[@]}" "$pgbouncer" -q "$work/$name.ini" >"$work/$name.log" 2>&1 &
    pid_of[$name]=$!
    wait_for_server "$name"
}

# One table's rows as COPY text: tenant_id, id, value, filler.
rows() {
    awk -v tenants="$tenants" -v rows="$rows_per_tenant" 'BEGIN {
        for (t = 1; t <= tenants; t++) for (i = 1; i <= rows; i++)
            printf "%d\t%d\t%d\tsome text as rows of applications have it, number %d of tenant %d\n", t, i, 0, i, t
    }'
}

load() {
    local dsn=$1 distribute=$2
    psql -X -q -v ON_ERROR_STOP=1 -d "$dsn" >/dev/null <<SQL
CREATE TABLE bench (tenant_id int, id int, value int NOT NULL, filler text, PRIMARY KEY (tenant_id, id));
$distribute
SQL
    rows | psql -X -q -v ON_ERROR_STOP=1 -d "$dsn" -c "\\copy bench FROM STDIN"
    psql -X -q -d "$dsn" -c "ANALYZE bench" >/dev/null 2>&1 || true
}

# Tables of the worker's own with the rows of bench, each with the tenants whose number has one remainder.
divide() {
    local i
    for ((i = 0; i < tables; i++)); do
        echo "CREATE TABLE bench_$i (LIKE bench INCLUDING ALL); INSERT INTO bench_$i SELECT * FROM bench WHERE tenant_id % $tables = $i;
              ANALYZE bench_$i;"
    done | psql -X -q -v ON_ERROR_STOP=1 -d "$(dsn "$worker_port")" >/dev/null
}

statements_of() {
    local table=$2 one="tenant_id = :tenant AND id"
    case $1 in
    select) echo "SELECT value, filler FROM $table WHERE $one = :id;" ;;
    update) echo "UPDATE $table SET value = value + 1 WHERE $one = :id;" ;;
    transaction) cat <<SQL ;;
BEGIN;
SELECT value, filler FROM $table WHERE $one = :id;
UPDATE $table SET value = value + 1 WHERE $one = :id;
SELECT count(*) FROM $table WHERE tenant_id = :tenant AND id < 10;
UPDATE $table SET filler = 'changed by a transaction' WHERE $one = :id;
SELECT value FROM $table WHERE $one = :id;
COMMIT;
SQL
    *) fail "there is no script \"$1\"; choose of: select update transaction" ;;
    esac
}

write_script() {
    local i id="random(1, $rows_per_tenant)"
    { printf '\\set tenant random(1, %d)\n\\set id %s\n' "$tenants" "$id"; statements_of "$1" bench; } >"$work/$1.sql"
    for ((i = 0; tables > 1 && i < tables; i++)); do
        printf '\\set tenant %d * random(1, %d) + %d\n\\set id %s\n' "$tables" $((tenants / tables - 1)) "$i" "$id"
        statements_of "$1" "bench_$i"
    done | awk -v start="$work/$1" '/^.set tenant/ { n++ } { print >(start "." (n - 1) ".sql") }'
}

# Options of pgbench: what a target is to run.
files_of() {
    local script=$1 target=$2 i
    if [ "$target" = tenantry ] || [ "$tables" -eq 1 ]; then
        echo "-f $work/$script.sql"
    else
        for ((i = 0; i < tables; i++)); do echo "-f $work/$script.$i.sql"; done
    fi
}

# CPU time of a process so far, in clock ticks: fields 14 and 15, counted after the command's closing bracket.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'; }

# The same of all processes of the worker together; those that have ended are in the postmaster's fields 16 and 17.
server_ticks() {
    local pid files=("/proc/$postmaster/stat")
    for pid in $(pgrep -P "$postmaster"); do
        files+=("/proc/$pid/stat")
    done
    # One that has ended meanwhile is none of theirs who are measured.
    { cat "${files[@]}" 2>/dev/null || true; } | sed 's/.*) //' | awk 'NR == 1 { sum = $14 + $15 } { sum += $12 + $13 } END { print sum }'
}

# How often the threads of a process have gone to sleep so far.
sleeps() { cat "/proc/$1"/task/*/status 2>/dev/null | awk '/^voluntary_ctxt_switches/ { sum += $2 } END { print sum + 0 }'; }

# Clock ticks in which a core had nothing to do.
idle_ticks() { awk '/^cpu / { print $5 + $6 }' /proc/stat; }

# Runs pgbench for so many seconds, with further options.
run() {
    local script=$1 mode=$2 count=$3 target=$4 seconds=$5 log=$work/pgbench.log
    shift 5
    # The place to connect to comes last, without -d: before PostgreSQL 17 that means to tell everything pgbench does.
    # shellcheck disable=SC2046 # several options
    pgbench -n -M "$mode" -c "$count" -j $((count < $(nproc) ? count : $(nproc))) -T "$seconds" $(files_of "$script" "$target") \
        "$@" "$(dsn "${port_of[$(process_of "$target" "$mode")]}")" >"$log" 2>&1 ||
        fail "pgbench -M $mode -c $count, $script, $target failed: $(tail -n 5 "$log")"
}

# One measurement, as a line of the results: script mode clients round target tps mean_ms p99_ms cpu_us servers_cpu_us sleeps
# idle_us, the last four per statement.
measure() {
    local script=$1 mode=$2 count=$3 round=$4 target=$5 pid before=0 after=0 slept=0 woken=0 servers idle log=$work/pgbench.log
    pid=${pid_of[$(process_of "$target" "$mode")]:-}
    rm -f "$work"/latency.*
    servers=$(server_ticks) idle=$(idle_ticks)
    [ -z "$pid" ] || before=$(ticks "$pid") slept=$(sleeps "$pid")
    run "$script" "$mode" "$count" "$target" "$duration" --log --log-prefix="$work/latency" --sampling-rate=0.2
    [ -z "$pid" ] || after=$(ticks "$pid") woken=$(sleeps "$pid")
    servers=$(($(server_ticks) - servers)) idle=$(($(idle_ticks) - idle))
    ! grep -q 'number of failed transactions: [1-9]' "$log" || fail "pgbench had failed transactions: $(cat "$log")"
    local p99
    p99=$(cat "$work"/latency.* | awk '{ print $3 }' | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR - 1) * 0.99) + 1] / 1000 }')
    awk -v head="$script $mode $count $round $target" -v p99="$p99" -v ticks=$((after - before)) -v servers="$servers" \
        -v sleeps=$((woken - slept)) -v idle="$idle" -v hertz="$ticks_per_second" -v statements="$(statements_of "$script" bench | wc -l)" '
        /^number of transactions actually processed/ { n = $6 + 0 }
        /^latency average = / { mean = $4 }
        /^tps = / { tps = $3 }
        END {
            each = 1e6 / hertz / n / statements
            print head, tps, mean, p99, ticks * each, servers * each, sleeps / n / statements, idle * each
        }' "$log" >>"$results"
}

# In turn, so that whatever else the machine does falls on all; every round begins with another one.
compare() {
    local script=$1 mode=$2 count=$3 round i order target
    read -r -a order <<<"$targets"
    for target in "${order[@]}"; do
        [ "$warm_up" -eq 0 ] || run "$script" "$mode" "$count" "$target" "$warm_up"
    done
    for ((round = 1; round <= rounds; round++)); do
        for ((i = 0; i < ${#order[@]}; i++)); do
            measure "$script" "$mode" "$count" "$round" "${order[(i + round) % ${#order[@]}]}"
        done
    done
}

ticks_per_second=$(getconf CLK_TCK)
results=${RESULTS:-$work/results}
: >"$results"
start_cluster
postmaster=$(psql -X -A -t -d "$(dsn "$worker_port")" -c "SELECT split_part(pg_read_file('postmaster.pid'), E'\\n', 1)")
load "$(dsn "$port")" "SELECT create_distributed_table('bench', 'tenant_id', shard_count => $shards);"
load "$(dsn "$worker_port")" ""
[ "$tables" -eq 1 ] || divide
! has_target tenantry || start_tenantry
! has_target floor || start_floor
if has_target pgbouncer; then
    start_pgbouncer pooler transaction
    start_pgbouncer session session
fi
for script in $scripts; do
    write_script "$script"
done

echo "$(nproc) cores, $tenants tenants of $rows_per_tenant rows, medians of $rounds rounds of $duration s, $threads threads for clients, $io; $shards shards, the others $tables tables"
echo "$("$tenantry" --version); $(pgbench --version); ${pgbouncer:+$("$pgbouncer" --version | head -n 1)}"
if [ -n "$idle" ]; then
    for target in $targets; do
        process=$(process_of "$target" simple)
        case $target in direct | floor) continue ;; esac
        # shellcheck disable=SC2086 # several numbers
        python3 benches/idle_clients.py "${port_of[$process]}" "${pid_of[$process]}" $idle |
            awk -v target="$target" '{ print "idle -", $1, "-", target, $2 }' >>"$results"
    done
fi
for script in $scripts; do
    for mode in $modes; do
        for count in $clients; do
            compare "$script" "$mode" "$count"
        done
    done
done
python3 benches/report.py "$results"
