#!/usr/bin/env bash
# Formatting, every test, and lints beside them; ends with a total. Its arguments are `cargo test`'s.
#
# CAUSEWAY_SKIP=docker,etcd does without these; README.md lists what can be named. CAUSEWAY_PG_BINS is
# a list of directories, with colons between, of the PostgreSQL versions to run the local clusters over.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
# Its words are read below.
export CARGO_TERM_COLOR=never

"$cargo" fmt --check

# Most tests wait for servers most of the time; those that do not take turns (tests/support/turn.rs).
# Servers that fall are judged by whether others answer in time: more at once than there are cores, and a
# busy machine is taken for a dead node. Beyond eight it is their clusters that take the memory.
threads=$(nproc)
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((threads < 8 ? threads : 8))}

# `cargo test` and no runner that gives each test a process of its own: tests share clusters.
output=$(mktemp)
lints=$(mktemp)
CAUSEWAY_SKIPPED_FILE=$(mktemp)
export CAUSEWAY_SKIPPED_FILE
linting=
# What fails in here would be the script's own exit status.
clean_up() {
    rm -f "$output" "$output.over" "$lints" "$CAUSEWAY_SKIPPED_FILE"
    if [ -n "$linting" ]; then kill "$linting" 2>/dev/null || true; fi
}
trap clean_up EXIT

# Lints are read in the time that tests wait: at idle priority they take no core from anybody. They begin
# when the first test does, since cargo builds one thing at a time.
lint() {
    until grep -q '^     Running' "$output"; do
        if [ -e "$output.over" ]; then break; fi
        sleep 0.2
    done
    chrt --idle 0 "$cargo" clippy --all-targets -- -D warnings
}
lint >"$lints" 2>&1 &
linting=$!
if "$cargo" test --no-fail-fast "$@" 2>&1 | tee "$output"; then verdict=passed; else verdict=failed; fi
touch "$output.over"
if wait "$linting"; then linted=passed; else linted=failed; fi
linting=
if [ "$linted" = failed ]; then cat "$lints"; fi

# What failed has failed, whatever comes of this: the tests that did are run once more, alone, only to
# tell a steady failure from one that comes and goes.
diagnose() {
    local target test
    awk '/^     Running|^   Doc-tests/ { target = "" }
         /^     Running unittests src\/lib.rs/ { target = "--lib" }
         /^     Running unittests src\/main.rs/ { target = "--bins" }
         /^     Running tests\// { split($2, part, "/"); target = "--test " part[2] }
         /^test .* \.\.\. FAILED$/ && target && !seen[target, $2]++ { print target "\t" $2 }
        ' "$output" | while IFS=$'\t' read -r target test; do
        # shellcheck disable=SC2086 # The target is one word or two.
        if CAUSEWAY_SKIPPED_FILE=/dev/null "$cargo" test --quiet $target -- --exact "$test" \
            >/dev/null 2>&1 </dev/null; then
            echo "unsteady: $test failed, and passes when it is run again"
        else
            echo "steady: $test fails again"
        fi
    done
}
if [ "$verdict" = failed ]; then diagnose; fi

skipped=$(sort -u "$CAUSEWAY_SKIPPED_FILE" | awk '
    { count[$1]++; all++ }
    END { text = all + 0 " skipped"
          for (thing in count) words = words (words ? ", " : "") count[thing] " for want of " thing
          print text (words ? " (" words ")" : "") }')
# A test that runs in a network namespace of its own prints a result as well; the target's is the last.
awk -v skipped="$skipped" '
    function add() { passed += now[1]; failed += now[2]; ignored += now[3]; split("", now) }
    /^     Running|^   Doc-tests/ { add() }
    /^test result:/ { now[1] = $4; now[2] = $6; now[3] = $8 }
    END { add()
          printf "total: %d passed, %d failed, %d ignored, %s\n", passed - skipped, failed, ignored, skipped
        }' "$output"
echo "lints: $linted"
[ "$verdict" = passed ] && [ "$linted" = passed ]
