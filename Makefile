# The commands that people type; each says what it does. What takes more than a line is in scripts/.

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=
FUZZ_SCRIPTS ?= 20000
HEALTHY_SECONDS ?= 600
FUZZ_SEED ?= $(shell date +%s)

.PHONY: help setup demo test fuzz healthy mutants fuzz-targets bench check clean

help: ## lists these
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

setup: ## installs what is missing (Debian, Ubuntu), or says what to install
	@scripts/setup.sh

demo: setup ## a primary, standbys and the proxy on this machine, until Ctrl-C
	$(CARGO) build --profile demo
	target/demo/causeway demo $(DEMO_ARGS)

test: setup ## formatting, lints and every test, with a total
	@scripts/test.sh

fuzz: setup ## a million random statements through the proxy, beside the same directly at PostgreSQL
	CAUSEWAY_FUZZ_SCRIPTS=$(FUZZ_SCRIPTS) CAUSEWAY_FUZZ_SEED=$(FUZZ_SEED) \
		$(CARGO) test --test fuzzer the_proxy -- --nocapture

mutants: ## the same with one rule of pooling switched off at a time, which must be noticed
	$(CARGO) test --test fuzzer a_rule -- --nocapture --include-ignored

healthy: setup ## ten minutes each of what is no failure of a healthy cluster (HEALTHY_SECONDS)
	CAUSEWAY_HEALTHY_SECONDS=$(HEALTHY_SECONDS) \
		$(CARGO) test --test failover proxies::healthy -- --nocapture

bench: setup ## the benchmarks, as ratios against peers
	$(CARGO) bench --bench peers -- $(BENCH_ARGS)

fuzz-targets: ## the cargo-fuzz targets, each for FUZZ_SECONDS
	@scripts/fuzz.sh $(FUZZ)

check: ## formatting and lints only
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

clean: ## removes what was built
	$(CARGO) clean
