#!/usr/bin/env bash
# Methods at the image itself beside Captum's, for the same tensor:
#
#   bash scripts/lab/image_parity.sh [--only MODEL ...]
#
# Its last line is `N passed, N failed`. About four minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
# shellcheck source=scripts/lab/environment.sh
source scripts/lab/environment.sh

build_camflow
beside image_parity
exec "$env/bin/python" -W ignore scripts/lab/image_parity.py --camflow "$CAMFLOW" --models "$camflow_cache/parity" "$@"
