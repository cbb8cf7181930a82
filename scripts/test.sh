#!/usr/bin/env bash
# Everything that has to hold before a change goes in:
#
#   bash scripts/test.sh [full] [ARGUMENTS OF pytest]
#   bash scripts/test.sh fast      format, lints, documentation and unit tests, which need no database
#   bash scripts/test.sh long      after all tests the long forms of what they try: hours
#
# What it builds lies outside the checkout, so that a second clone is quick.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

layer=full
case "${1:-}" in
    fast | full | long)
        layer="$1"
        shift
        ;;
esac

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$camflow_cache/target}"
shared_target "$CARGO_TARGET_DIR" dev
# A path that is the same for every clone: another one would compile what links to libtorch again.
export LIBTORCH="${LIBTORCH:-$(cd "$camflow_root/.venv" && pwd -P)/libtorch}"
# For tests in Rust and in Python alike: where models and images that they make
# once are kept.
export CAMFLOW_TEST_CACHE="${CAMFLOW_TEST_CACHE:-$camflow_cache/test}"
mkdir -p "$CAMFLOW_TEST_CACHE"
# Hundreds of processes load the same modules: each would compile them again.
unset PYTHONDONTWRITEBYTECODE

# The test of the App looks at it with a browser. Debian's Chromium is enough,
# and Python's playwright drives it without one of its own.
ensure_browser() {
    local name sudo=()
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name" >/dev/null; then return; fi
    done
    [ "$(id -u)" -eq 0 ] || sudo=(sudo -n)
    if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
        step "installing chromium, for the test of the App"
        # The lists of packages may be missing or old; then they are fetched.
        "${sudo[@]}" apt-get install -y --no-install-recommends chromium ||
            { "${sudo[@]}" apt-get update && "${sudo[@]}" apt-get install -y --no-install-recommends chromium; } || true
    fi
    command -v chromium >/dev/null || fail "no Chromium, and the test of the App needs one" \
        "sudo apt-get install chromium (or Google Chrome)"
}

# The cheap checks first.
step "format"
cargo fmt --all --check
step "lint"
bash scripts/lint.sh
cargo clippy --workspace --all-targets --locked -- -D warnings
if [ "$layer" != fast ]; then
    # A workspace of its own, which nothing else looks at. What it needs of the program's crates was checked just now.
    step "the fuzz targets compile"
    cargo check --locked --manifest-path fuzz/Cargo.toml
fi
step "documentation"
bash scripts/docs.sh build
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --lib --locked --quiet
if [ "$layer" = fast ]; then
    step "unit tests"
    cargo test --workspace --locked --lib
    exit
fi
ensure_browser
step "unit tests in Rust"
cargo test --workspace --locked --no-run
cargo test --workspace --locked --lib
# Most of the others wait for a database: they run beside those in Python, and are shown when they are done.
others_in_rust() {
    local code=0
    { cargo test --workspace --locked --no-fail-fast --bins --examples --test '*' && cargo test --workspace --locked --doc; } \
        >"$rust_said" 2>&1 </dev/null || code=$?
    cat "$rust_said"
    return "$code"
}
step "tests in Python, and the other ones in Rust"
rust_said="$(mktemp)"
# In a process group of its own, which goes with this script.
set -m
others_in_rust &
rust=$!
set +m
trap 'kill -- "-$rust" 2>/dev/null || true; rm -f "$rust_said"' EXIT
code=0
# With arguments it is about some tests, and one process starts sooner.
if [ $# -eq 0 ]; then
    "$camflow_python" scripts/parallel_pytest.py --durations=15 -m "not long" tests/python || code=$?
else
    "$camflow_python" -m pytest tests/python "$@" || code=$?
fi
rust_code=0
wait "$rust" || rust_code=$?
if [ "$rust_code" -ne 0 ]; then
    # Once more, as much was said since.
    cat "$rust_said"
    fail "tests in Rust ended with $rust_code"
fi
[ "$code" -eq 0 ] || exit "$code"
if [ "$layer" = long ]; then
    step "licences, advisories and sources of the crates"
    command -v cargo-deny >/dev/null || fail "cargo-deny is not installed" "cargo install cargo-deny --locked"
    cargo deny --locked check
    step "long tests in Python"
    "$camflow_python" scripts/parallel_pytest.py --durations=15 -m long tests/python
    for long in parity.sh lab/models.sh lab/zoo.sh lab/detectors.sh lab/sanity.sh lab/fuzz.sh "faults.sh --long" "faults.sh --soak 60" "lab/bias.sh --short" \
        check_wheel.sh "gpu.sh pack" "gpu.sh check cpu"; do
        step "scripts/$long"
        # shellcheck disable=SC2086
        bash scripts/$long
    done
fi
