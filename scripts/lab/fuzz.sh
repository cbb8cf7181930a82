#!/usr/bin/env bash
# Fuzzes the readers of everything that comes from outside (models, arrays, masks, images), each for a while:
#
#   bash scripts/lab/fuzz.sh [SECONDS EACH] [TARGET ...]      the default: 60 seconds, all targets
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`). What it finds is in fuzz/artifacts: mend it, and put the file into
# fuzz/seeds/TARGET, so that every test run reads it again. Nightly Rust is not needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
command -v cargo-fuzz >/dev/null || fail "cargo-fuzz is not installed" "cargo install cargo-fuzz"

seconds="${1:-60}"
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename -s .rs fuzz/fuzz_targets/*.rs)

# libFuzzer's instrumentation is an unstable option of every compiler.
export RUSTC_BOOTSTRAP=1
export LIBTORCH="${LIBTORCH:-$(cd .venv && pwd -P)/libtorch}"
# What depends on camflow does not inherit where it looks for libtorch.
export LD_LIBRARY_PATH="$LIBTORCH/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
unset CARGO_TARGET_DIR
target_dir="${CAMFLOW_FUZZ_TARGET:-$camflow_cache/fuzz-target}"

status=0
for target in "${targets[@]}"; do
    step "$target: $seconds s"
    corpus="fuzz/corpus/$target"
    mkdir -p "$corpus"
    seeds=()
    if [ -d "fuzz/seeds/$target" ]; then seeds+=("fuzz/seeds/$target"); fi
    case "$target" in npy | mask_file | image) seeds+=(src/media/testdata) ;; esac
    # Readers in safe Rust need no sanitizer; the limits on memory and time are what is watched.
    cargo fuzz run --sanitizer none --target-dir "$target_dir" "$target" "$corpus" "${seeds[@]}" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=65536 -print_final_stats=1 || status=1
done
exit "$status"
