#!/usr/bin/env bash
# Plants biases of graded difficulty in small models and looks how well camflow's report names what they decide by the backdrop
# (docs/bias.md):
#
#   bash scripts/lab/bias.sh [--out FOLDER] [FLAGS OF bias_benchmark.py]
#   bash scripts/lab/bias.sh --short
#
# The whole grid is some 45 minutes of one core; with --out it goes on where it was, and --part 0/2 and 1/2 share it. --short is one seed and two
# models of each world, two minutes. The last lines are the tables.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

build_camflow
# The digits are in a folder of their own: nothing of the package is imported.
digits="$camflow_cache/bias-$(sha256sum scripts/lab/bias_requirements.txt | cut -c1-8)"
if [ ! -e "$digits/.complete" ]; then
    rm -rf "$digits"
    "$camflow_python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$digits" -r scripts/lab/bias_requirements.txt
    touch "$digits/.complete"
fi
[ "${1:-}" != --short ] || set -- --seeds 1 --correlations 50 95 "${@:2}"
exec "$camflow_python" -W ignore scripts/lab/bias_benchmark.py --camflow "$CAMFLOW" --mnist "$digits" "$@"
