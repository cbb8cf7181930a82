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

build_camflow
# Quantus asks for an OpenCV that takes the place of the one that is there, so that it comes alone, in front of the usual environment.
env="$camflow_cache/sanity-$(sha256sum scripts/lab/sanity_requirements.txt | cut -c1-8)"
if [ ! -e "$env/.complete" ]; then
    rm -rf "$env"
    "$camflow_python" -m venv "$env"
    "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r scripts/lab/sanity_requirements.txt
    where='import sysconfig; print(sysconfig.get_path("purelib"))'
    "$camflow_python" -c "$where" >"$("$env/bin/python" -c "$where")/environment.pth"
    touch "$env/.complete"
fi
exec "$env/bin/python" -W ignore scripts/lab/sanity.py --camflow "$CAMFLOW" "$@"
