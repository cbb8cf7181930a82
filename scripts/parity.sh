#!/usr/bin/env bash
# Compares camflow with pytorch_grad_cam, method by method and model by model, and writes the table docs/parity.md:
#
#   bash scripts/parity.sh [--only MODEL ...]
#
# Its last line is `N passed, N failed`. Takes about half an hour on two cores, most of it in the reference.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/shared_target.sh
source scripts/shared_target.sh

step "building camflow"
shared_target "${CARGO_TARGET_DIR:-target}" release
cargo build --release --locked
# A part of the table would replace all of it.
write=(--write docs/parity.md)
[ $# -eq 0 ] || write=()
exec "$camflow_python" -W ignore scripts/lab/parity.py --camflow "${CARGO_TARGET_DIR:-target}/release/camflow" \
    --models "$camflow_cache/parity" "${write[@]}" "$@"
