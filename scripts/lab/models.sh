#!/usr/bin/env bash
# Exports some 150 models as people have them and compares each with pytorch_grad_cam; writes docs/reference/models-tried.md:
#
#   bash scripts/lab/models.sh [--only MODEL ...] [FLAGS OF models_harness.py]
#
# Its last line is `N passed, N failed`. About two hours on two idle cores; a run that was stopped goes on where it was.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

build_camflow
# Libraries that only these models need: in an environment of their own, in front of the usual one.
beside models
# A part of the table would replace all of it.
write=(--results "$camflow_cache/models-tried-$("$CAMFLOW" --version | tr ' ' '-').jsonl" --write docs/reference/models-tried.md)
[ $# -eq 0 ] || write=()
exec "$env/bin/python" -W ignore scripts/lab/models_harness.py --camflow "$CAMFLOW" "${write[@]}" "$@"
