#!/usr/bin/env bash
# Detectors of Ultralytics beside the library's own heatmaps, with random weights:
#
#   bash scripts/lab/detectors.sh [FLAGS OF detectors.py]
#
# Its last line is `N passed, N failed`. About 15 minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
exec "$camflow_python" -W ignore scripts/lab/detectors.py "$@"
