#!/usr/bin/env bash
# Fuzzes every target of fuzz/fuzz_targets for so many seconds, guided by coverage, with stable Rust.
#
#   fuzz/run.sh SECONDS [TARGET...]
#
# Inputs that reached something new are kept in fuzz/corpus/TARGET and used again; fuzz/seeds/TARGET is where it begins.
# What crashed lies in fuzz/artifacts/TARGET: make it a unit test beside the code, then mend the code.
# The flags are those that cargo-fuzz passes, without the sanitizers, which only nightly Rust has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

seconds=${1:?usage: fuzz/run.sh SECONDS [TARGET...]}
shift
host=$(rustc -vV | sed -n 's/^host: //p')
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
# With a target of its own, programs that only build other programs have no counters.
cargo build --quiet --target "$host" --target-dir "${CARGO_TARGET_DIR:-target}"
[ $# -gt 0 ] || set -- $(cd fuzz_targets && printf '%s\n' *.rs | sed 's/\.rs$//')
for target; do
    mkdir -p "corpus/$target" "artifacts/$target"
    log=artifacts/$target/log
    echo "fuzz $target for $seconds s"
    if ! "${CARGO_TARGET_DIR:-target}/$host/debug/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=4096 \
        -artifact_prefix="artifacts/$target/" "corpus/$target" "seeds/$target" >"$log" 2>&1; then
        tail -n 60 "$log" >&2
        exit 1
    fi
    grep -E '^#[0-9]+.*DONE' "$log" || tail -n 1 "$log"
done
