# rbuild. `make` lists what there is; logic lives in the scripts under tests/.
CARGO ?= cargo
export CARGO_TERM_COLOR ?= auto
BINS = --bin rbuildd --bin rbuildctl

.DEFAULT_GOAL := help
.PHONY: help deps build release demo test lint fmt unit e2e kill fuzz bench deny clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install what building and testing need (Debian packages)
	@tests/setup.sh

build: ## both binaries, for development
	$(CARGO) build --locked $(BINS)

release: ## both binaries, optimised
	$(CARGO) build --locked --release $(BINS)

demo: deps build ## build an image with a private daemon and show it
	@tests/demo.sh

test: deps lint unit e2e ## everything that CI checks

lint: ## rustfmt, clippy with warnings denied
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt --all

unit: ## unit, golden and property tests of every crate
	$(CARGO) test --locked --workspace --exclude rbuild-tests
	$(CARGO) test --locked -p rbuild-solver --features shuttle --lib model

e2e: build ## end-to-end tests; CASE=name picks some
	$(CARGO) test --locked -p rbuild-tests -- $(CASE)

kill: build ## kill -9 the daemon KILLS=1000 times under load (see tests/it/c5_kill.rs)
	RBUILD_KILLS=$(or $(KILLS),1000) $(CARGO) test --locked -p rbuild-tests -- c5_kill --nocapture

fuzz: ## fuzz TARGET=name for TIME=seconds (see docs/fuzzing.md)
	@tests/fuzz/run.sh $(or $(TARGET),dockerfile) $(or $(TIME),600)

bench: release ## measure against a buildkitd that you provide (see docs/performance.md)
	tests/bench/run.sh

deny: ## licences, advisories, duplicate crates (needs cargo-deny)
	$(CARGO) deny --config .config/deny.toml check

clean: ## remove build output
	$(CARGO) clean
