#!/usr/bin/env bash
# The release binary once more, laid out for what it does most: profile-guided optimization.
#
#   instrumented build ──> pgbench through it, one tenant at a time ──> profile ──> target/pgo/tenantry
#
# Two release builds, so twice their time. Needs an llvm-profdata that reads what this rustc writes: rustup's component
# llvm-tools, or Debian's llvm-19 or later, which is installed where there is none.
#
# Source: https://doc.rust-lang.org/rustc/profile-guided-optimization.html
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

port=${PORT:-7932}
host=$(rustc -vV | sed -n 's/^host: //p')
work=$PWD/target/pgo
profiles=$work/profiles

fail() {
    echo "build_pgo: $1" >&2
    exit 1
}

# The newest, because a profile's format is its compiler's; older ones than 19 do not know it.
profdata() {
    local tool
    for tool in "$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata" $(ls -v -r /usr/bin/llvm-profdata-* 2>/dev/null); do
        [ -x "$tool" ] || continue
        [[ ! $tool =~ -([0-9]+)$ ]] || [ "${BASH_REMATCH[1]}" -ge 19 ] || continue
        echo "$tool"
        return 0
    done
    return 1
}

install_llvm() {
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    echo "build_pgo: installing llvm-19"
    # An index that is partly out of date may still have it.
    "${as_root[@]}" apt-get update -q >/dev/null 2>&1 || true
    "${as_root[@]}" apt-get install -y -q --no-install-recommends llvm-19 >/dev/null ||
        fail "llvm-19 could not be installed: run 'rustup component add llvm-tools'."
}

# cargo build --release, with code generation options for this program and all it is made of.
build() {
    RUSTFLAGS="${RUSTFLAGS:-} $1" CARGO_TARGET_DIR=$2 cargo build --release --bin tenantry --target "$host"
}

dsn() { echo "postgresql://postgres@127.0.0.1:$port/postgres"; }

# What applications do most: reads and short transactions of one tenant, in each protocol.
train() {
    local mode script
    psql -X -q -v ON_ERROR_STOP=1 -d "$(dsn)" >/dev/null <<'SQL'
CREATE TABLE trained (tenant_id int, id int, value int NOT NULL, filler text, PRIMARY KEY (tenant_id, id));
SELECT create_distributed_table('trained', 'tenant_id');
INSERT INTO trained SELECT t, i, 0, 'some text' FROM generate_series(1, 100) t, generate_series(1, 20) i;
SQL
    printf '\\set t random(1, 100)\n\\set i random(1, 20)\n' | tee "$work/select.sql" >"$work/transaction.sql"
    echo "SELECT value, filler FROM trained WHERE tenant_id = :t AND id = :i;" >>"$work/select.sql"
    cat >>"$work/transaction.sql" <<'SQL'
BEGIN;
SELECT value, filler FROM trained WHERE tenant_id = :t AND id = :i;
UPDATE trained SET value = value + 1 WHERE tenant_id = :t AND id = :i;
COMMIT;
SQL
    for mode in simple extended prepared; do
        for script in select transaction; do
            pgbench -n -M "$mode" -c 8 -t 1000 -f "$work/$script.sql" "$(dsn)" >"$work/pgbench.log" 2>&1 ||
                fail "pgbench failed: $(tail -n 5 "$work/pgbench.log")"
        done
    done
}

profdata >/dev/null || install_llvm
llvm_profdata=$(profdata) || fail "there is no llvm-profdata: run 'rustup component add llvm-tools'."
mkdir -p "$work"
rm -rf "$profiles"
build "-Cprofile-generate=$profiles" "$work/instrumented"
"$work/instrumented/$host/release/tenantry" dev --workers 2 --port "$port" >"$work/dev.log" 2>&1 &
dev=$!
trap 'kill -TERM "$dev" 2>/dev/null || true' EXIT
until grep -qs '^ready:' "$work/dev.log"; do
    kill -0 "$dev" 2>/dev/null || fail "tenantry dev ended: $(cat "$work/dev.log")"
    sleep 0.1
done
train
# It writes the profile when it ends by itself.
kill -TERM "$dev"
wait "$dev" || true
trap - EXIT
"$llvm_profdata" merge -o "$work/tenantry.profdata" "$profiles" ||
    fail "$llvm_profdata cannot read what $(rustc --version) writes: run 'rustup component add llvm-tools'."
build "-Cprofile-use=$work/tenantry.profdata" "$work/optimized"
cp "$work/optimized/$host/release/tenantry" "$work/tenantry"
echo "build_pgo: target/pgo/tenantry"
