#!/usr/bin/env bash
# How fast camflow is beside FiftyOne's tutorial and beside good Python, in one session:
#
#   bash scripts/bench.sh [--json FILE] [FLAGS OF bench.py]
#
# About ten minutes on two cores. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

step "building camflow (the first time takes some minutes)"
shared_target "${CARGO_TARGET_DIR:-target}" release
cargo build --release --locked --bins --example device_rate
exec "$camflow_python" scripts/lab/bench.py "$@"
