#!/usr/bin/env bash
# Compares what camflow reads of some thousand image and mask files with what Pillow and OpenCV read:
#
#   bash scripts/images.sh [--damage N] [--keep FOLDER] [--all]
#
# All formats, modes, bit depths and options that scripts/lab/image_cases.py writes, and each cut and damaged in nine ways (with
# `--damage 4` every fourth). What is neither equal nor refused by both is printed, and has to be listed with its reason. The
# last line has the counts. Takes two minutes on two cores, after the build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

step "building camflow"
cargo build --locked --example pixels
exec "$camflow_python" scripts/lab/images.py --pixels "${CARGO_TARGET_DIR:-target}/debug/examples/pixels" "$@"
