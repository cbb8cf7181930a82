#!/usr/bin/env bash
# CAM, Smooth Grad-CAM++, SS-CAM and IS-CAM, and layers that are fused, beside torch-cam's, given the same noise:
#
#   bash scripts/lab/torchcam.sh
#
# Its last line is `N passed, N failed`. About two minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

build_camflow
beside torchcam
exec "$env/bin/python" -W ignore scripts/lab/torchcam_parity.py --camflow "$CAMFLOW" "$@"
