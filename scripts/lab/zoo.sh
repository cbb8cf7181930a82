#!/usr/bin/env bash
# Exports and explains every model of FiftyOne's zoo whose network can be built without a download, with random weights:
#
#   bash scripts/lab/zoo.sh [--only NAME ...] [FLAGS OF zoo_constructions.py]
#
# Its last line is `N passed, N failed`. About half an hour on two idle cores; a run that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
results=(--results "$camflow_cache/zoo-$("$CAMFLOW" --version | tr ' ' '-').jsonl")
[ $# -eq 0 ] || results=()
exec "$camflow_python" -W ignore scripts/lab/zoo_constructions.py --camflow "$CAMFLOW" "${results[@]}" "$@"
