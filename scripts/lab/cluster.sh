#!/usr/bin/env bash
# Runs a job on a Ray cluster of several nodes, of which one is lost and one comes, and compares with a single run:
#
#   bash scripts/lab/cluster.sh [FLAGS OF cluster.py]
#
# Its last line is `shards N, retried N, differences N`. About two minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
exec "$camflow_python" scripts/lab/cluster.py --camflow "$CAMFLOW" "$@"
