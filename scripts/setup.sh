#!/usr/bin/env bash
# Makes a Debian or Ubuntu machine ready to build, run and test Tenantry; does nothing where that is so already.
#
#   system packages   PostgreSQL (programs only, no cluster is made or started), compilers for C and C++ (fuzz/), make, Python's
#                     venv; strace (a test counts system calls), libfaketime (a test has clocks jump) and
#                     PgBouncer (benches/compare.sh), which is not started either
#   .venv             the Python drivers of tests/drivers/requirements.txt
#   tests/drivers/node_modules   the JavaScript drivers of its package-lock.json
#
# What is missing and cannot be installed is named in one sentence, with exit status 1. Without Java, Node.js or Go the
# tests skip their drivers; that is said and is no failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "setup: $1" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    else
        sudo -n "$@"
    fi
}

has() { command -v "$1" >/dev/null 2>&1; }

# Server programs of PostgreSQL 15 or later, at the places where src/dev_cluster/binaries.rs looks.
has_postgres() {
    local folder version
    for folder in /usr/lib/postgresql/*/bin "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v initdb || true)")"; do
        [ -x "$folder/initdb" ] && [ -x "$folder/postgres" ] || continue
        version=$("$folder/postgres" --version | grep -oE '[0-9]+' | head -n 1)
        [ "${version:-0}" -lt 15 ] || return 0
    done
    return 1
}

missing_packages() {
    has_postgres || echo postgresql
    has psql || echo postgresql-client
    # pgbench stands in postgresql-contrib on old releases and in the client package on new ones.
    has pgbench || echo postgresql-contrib
    has cc || echo gcc libc6-dev
    has c++ || echo g++
    has pkg-config || echo pkg-config
    has make || echo make
    has strace || echo strace
    has faketime || echo faketime
    has pgbouncer || [ -x /usr/sbin/pgbouncer ] || echo pgbouncer
    has openssl || echo openssl
    # Debian ships venv without its pip, which a plain `import venv` would not notice.
    { has python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; } || echo python3 python3-venv
}

install_packages() {
    local packages=("$@") log
    has apt-get || fail "this is no Debian or Ubuntu, so install by hand what these packages hold: ${packages[*]}."
    [ "$(id -u)" -eq 0 ] || { has sudo && sudo -n true 2>/dev/null; } ||
        fail "only root can install what is missing: run 'sudo apt-get install ${packages[*]}' once."
    echo "setup: installing ${packages[*]}"
    log=$(mktemp)
    # Before the packages come: their installation would otherwise make and start a server of its own.
    if ! grep -qs '^create_main_cluster' /etc/postgresql-common/createcluster.conf; then
        as_root mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' | as_root tee -a /etc/postgresql-common/createcluster.conf >/dev/null
    fi
    # The same for PgBouncer, which is started by the bench that measures it and not with the machine.
    if [[ " ${packages[*]} " == *" pgbouncer "* ]] && [ ! -e /etc/systemd/system/pgbouncer.service ]; then
        as_root mkdir -p /etc/systemd/system
        as_root ln -s /dev/null /etc/systemd/system/pgbouncer.service
    fi
    # An index that is partly out of date may still have all that is needed.
    as_root apt-get update -q >"$log" 2>&1 || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o Dpkg::Options::=--force-confold "${packages[@]}" >>"$log" 2>&1 ||
        fail "apt-get could not install ${packages[*]}: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log") (all it said: $log)"
    rm -f "$log"
}

# Of drivers in other languages than Python and Rust.
missing_runtimes() {
    # `java File.java` needs the compiler, which a runtime alone has not.
    { has java && java --list-modules 2>/dev/null | grep -q '^jdk.compiler'; } || echo default-jdk-headless
    [ -e /usr/share/java/postgresql.jar ] || echo libpostgresql-jdbc-java
    has node || echo nodejs
    has npm || echo npm
    { has ruby && ruby -e 'require "pg"' 2>/dev/null; } || echo ruby-pg
    { has perl && perl -MDBD::Pg -MJSON::PP -e 1 2>/dev/null; } || echo libdbd-pg-perl
    { has php && php -r "exit(extension_loaded('pdo_pgsql') && extension_loaded('pgsql') ? 0 : 1);"; } || echo php-cli php-pgsql
}

# By themselves, because not every release has them.
missing_go_drivers() {
    { has go && GO111MODULE=off GOPATH=/usr/share/gocode go list github.com/jackc/pgx/v4 github.com/lib/pq >/dev/null 2>&1; } ||
        echo golang-go golang-github-jackc-pgx-v4-dev golang-github-lib-pq-dev
}

install_runtimes() {
    [ $# -eq 0 ] || (install_packages "$@") || echo "setup: without $* the tests of their drivers are skipped" >&2
}

install_javascript_drivers() {
    local folder=tests/drivers log
    cmp -s $folder/package-lock.json $folder/node_modules/installed.json && return
    has node && has npm || return 0
    echo "setup: installing the JavaScript drivers of $folder/package-lock.json"
    log=$(mktemp)
    if npm ci --silent --no-audit --no-fund --prefix $folder >"$log" 2>&1; then
        cp $folder/package-lock.json $folder/node_modules/installed.json
    else
        rm -rf $folder/node_modules
        echo "setup: npm could not install the JavaScript drivers, their tests are skipped: $(tail -n 1 "$log")" >&2
    fi
    rm -f "$log"
}

install_drivers() {
    local wanted=tests/drivers/requirements.txt log
    # The copy is written last, so a cut-off installation is done again.
    if cmp -s "$wanted" .venv/installed.txt && .venv/bin/python -c '' 2>/dev/null; then
        return
    fi
    echo "setup: installing the Python drivers of $wanted in .venv"
    log=$(mktemp)
    rm -rf .venv
    { python3 -m venv .venv && .venv/bin/python -m pip install -q --disable-pip-version-check -r "$wanted"; } \
        >"$log" 2>&1 ||
        fail "the Python drivers of $wanted could not be installed: $(grep -im 1 'error' "$log" || tail -n 1 "$log")"
    rm -f "$log"
    cp "$wanted" .venv/installed.txt
}

mapfile -t missing < <(missing_packages | tr ' ' '\n')
if [ "${#missing[@]}" -gt 0 ]; then
    install_packages "${missing[@]}"
    mapfile -t missing < <(missing_packages | tr ' ' '\n')
    has_postgres || fail "this system's PostgreSQL is older than 15: install postgresql-15 or later from https://apt.postgresql.org."
    [ "${#missing[@]}" -eq 0 ] || fail "still missing after installing them: ${missing[*]}."
fi

# rustup puts cargo where only a new login shell looks.
has cargo || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ] ||
    fail "cargo is missing: get Rust from https://rustup.rs (curl -sSf https://sh.rustup.rs | sh -s -- -y)."

install_drivers

mapfile -t runtimes < <(missing_runtimes)
install_runtimes "${runtimes[@]}"
mapfile -t runtimes < <(missing_go_drivers | tr ' ' '\n')
install_runtimes "${runtimes[@]}"
install_javascript_drivers
