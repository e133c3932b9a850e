#!/usr/bin/env bash
# Runs the cargo-fuzz targets, or those that are named, one after the other, each for FUZZ_SECONDS.
#
# cargo-fuzz asks for a nightly toolchain only for its sanitizers, which find little in a crate that forbids
# unsafe code: `-s none`, and RUSTC_BOOTSTRAP for the flags that it sets all the same.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo}
export RUSTC_BOOTSTRAP=1
"$cargo" fuzz --version >/dev/null 2>&1 || "$cargo" install cargo-fuzz
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <("$cargo" fuzz list)
fi
for target in "${targets[@]}"; do
    echo "== $target"
    "$cargo" fuzz run -s none "$target" -- \
        -max_total_time="${FUZZ_SECONDS:-1800}" -max_len=4096 -timeout=10 -print_final_stats=1
done
