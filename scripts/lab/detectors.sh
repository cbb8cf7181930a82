#!/usr/bin/env bash
# Detectors of Ultralytics beside the library's own heatmaps, with random weights:
#
#   bash scripts/lab/detectors.sh [parity|rates] [FLAGS OF detectors.py]
#
# The last line of `parity` is `N passed, N failed`. About 20 minutes on two idle cores, `rates` 5.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
[ $# -gt 0 ] || set -- parity
exec "$camflow_python" -W ignore scripts/lab/detectors.py "$@"
