#!/usr/bin/env bash
# The figures of `camflow check-model` beside those of Quantus, for the same maps:
#
#   bash scripts/lab/sanity.sh [FLAGS OF sanity.py]
#
# Its last line is `N passed, N failed`. About two minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

build_camflow
# Quantus asks for an OpenCV that takes the place of the one that is there, so that it comes alone, in front of the usual environment.
beside sanity
exec "$env/bin/python" -W ignore scripts/lab/sanity.py --camflow "$CAMFLOW" "$@"
