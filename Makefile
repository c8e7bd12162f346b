# Tenantry's daily commands. A clean Debian or Ubuntu machine with Rust needs nothing else: `make demo`, `make test`.

# rustup puts cargo where only a new login shell looks.
export PATH := $(PATH):$(or $(CARGO_HOME),$(HOME)/.cargo)/bin
# Deep expressions are parsed by recursion; tests run on threads with this stack. Unit: bytes.
export RUST_MIN_STACK := 16777216

.PHONY: help setup build pgo demo test fuzz bench lint fmt clean

help:
	@echo "make demo    the scale-out story: a cluster, tenants, two more workers under load"
	@echo "make test    format, lints and every test there is"
	@echo "make fuzz    fuzz targets, guided by coverage, SECONDS=300 each"
	@echo "make build   the release binary, target/release/tenantry"
	@echo "make pgo     that binary once more, laid out for what it does most, target/pgo/tenantry"
	@echo "make bench   planning, maps, pgbench through Tenantry and PgBouncer, a rebalance under clients"
	@echo "make setup   installs what is missing (PostgreSQL, drivers); the others call it"
	@echo "make lint | fmt | clean"

setup:
	@scripts/setup.sh

build: setup
	cargo build --release

pgo: setup
	scripts/build_pgo.sh

demo: build
	target/release/tenantry demo

# The fuzz targets name their crates themselves (fuzz/Cargo.toml): first, because what they miss shows in seconds.
test: setup lint
	fuzz/run.sh 20
	@if cargo nextest --version >/dev/null 2>&1; then \
		echo "cargo nextest run"; cargo nextest run; \
	else \
		echo "cargo test"; cargo test; \
	fi

SECONDS ?= 300

fuzz: setup
	fuzz/run.sh $(SECONDS)

bench: build
	cargo bench --bench plan
	cargo bench --bench scale
	cargo build --release --examples
	benches/compare.sh
	benches/move.sh

lint: setup
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

fmt:
	cargo fmt

clean:
	cargo clean
	rm -rf .venv dev-data
