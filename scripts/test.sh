#!/usr/bin/env bash
# Formatting, lints, then every test; ends with a total. Set CAUSEWAY_PG_BINS to run the local
# clusters over other PostgreSQL versions too.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}

"$cargo" fmt --check
"$cargo" clippy --all-targets -- -D warnings

# `cargo test` and no runner that gives each test a process of its own: tests share clusters.
output=$(mktemp)
trap 'rm -f "$output"' EXIT
outcome=0
"$cargo" test --no-fail-fast "$@" 2>&1 | tee "$output" || outcome=$?

# Tests that kill, freeze and cut real servers are tried once more before they count as failed; what
# passes only then is named, and is a defect all the same.
again=$(sed -n 's/^    `--test \(.*\)`$/\1/p' "$output")
if [ "$outcome" -ne 0 ] && [ -n "$again" ] && ! grep -Eq '^    `--(lib|doc|bin)' "$output"; then
    outcome=0
    for target in $again; do
        echo "trying again: $target"
        "$cargo" test --test "$target" 2>&1 | tee -a "$output" || outcome=$?
    done
    if [ "$outcome" -eq 0 ]; then echo "UNSTEADY: $(echo $again) passed at the second attempt only"; fi
fi
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "total: %d passed, %d failed, %d ignored\n", passed, failed, ignored }' "$output"
exit "$outcome"
