#!/usr/bin/env bash
# Plants a bias in a small model and looks whether camflow's report finds it:
#
#   bash scripts/lab/bias.sh [--out FOLDER] [FLAGS OF bias.py]
#
# Its last line is `AUC X`. About two minutes on two idle cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
exec "$camflow_python" scripts/lab/bias.py --camflow "$CAMFLOW" "$@"
