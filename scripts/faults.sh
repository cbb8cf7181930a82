#!/usr/bin/env bash
# Does to camflow what happens in a year of nights, and counts what it survives:
#
#   bash scripts/faults.sh [--long] [--soak MINUTES] [FLAGS OF faults.py]
#
# Its last line is `faults N, survived N, violations N`. The short form takes about three minutes on two idle cores, the long one
# about an hour, most of it for the sweep of file-system calls. CAMFLOW names another program to try than the development build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
exec "$camflow_python" scripts/lab/faults.py --camflow "$CAMFLOW" "$@"
