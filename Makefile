# The commands that people type; each says what it does. What takes more than a line is in scripts/.

CARGO ?= cargo
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: help setup demo test bench fuzz check clean

help: ## lists these
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: ## installs what is missing (Debian, Ubuntu), or says what to install
	@scripts/setup.sh

demo: setup ## a primary, standbys and the proxy on this machine, until Ctrl-C
	$(CARGO) build --profile demo
	target/demo/causeway demo $(DEMO_ARGS)

test: setup ## formatting, lints and every test, with a total
	@scripts/test.sh

bench: setup ## the benchmarks, as ratios against peers
	$(CARGO) bench --bench peers -- $(BENCH_ARGS)

fuzz: ## the cargo-fuzz targets, each for FUZZ_SECONDS
	@scripts/fuzz.sh $(FUZZ)

check: ## formatting and lints only
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings

clean: ## removes what was built
	$(CARGO) clean
