#!/usr/bin/env bash
# Maps per second and peak memory of camflow, pytorch_grad_cam, torch-cam, Captum and OpenVINO XAI, by model and method, in one session:
#
#   bash scripts/bench_peers.sh [--models NAME ...] [--methods NAME ...] [--json FILE] [FLAGS OF bench_peers.py]
#
# About an hour on two cores. Nothing else should run meanwhile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

beside peers
# The driver runs with the Python of that environment, and the database is in the usual one.
PATH="$(packages_of "$camflow_python")/fiftyone/db/bin:$PATH"
step "building camflow (the first time takes some minutes)"
shared_target "${CARGO_TARGET_DIR:-target}" release
cargo build --release --locked --bins
exec "$env/bin/python" scripts/lab/bench_peers.py --camflow "${CARGO_TARGET_DIR:-target}/release/camflow" "$@"
