#!/usr/bin/env bash
# Compares camflow with pytorch_grad_cam, torch-cam, Captum, OpenVINO XAI and papers, method by method and model by model, and writes the
# table docs/parity.md:
#
#   bash scripts/parity.sh [--peer NAME ...] [--only MODEL ...]
#
# Its last line is `N passed, N failed`. Takes about three quarters of an hour on two cores, most of it in the references.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

build_camflow
beside peers
# A part of the table would replace all of it.
write=(--write docs/parity.md)
[ $# -eq 0 ] || write=()
exec "$env/bin/python" -W ignore scripts/lab/parity_table.py --camflow "$CAMFLOW" --models "$camflow_cache/parity" "${write[@]}" "$@"
