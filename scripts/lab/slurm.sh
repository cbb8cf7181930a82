#!/usr/bin/env bash
# Runs pipelines/slurm/annotate.sbatch on a real Slurm, set up for the purpose on this machine and taken down again:
#
#     bash scripts/lab/slurm.sh [FLAGS OF slurm.py]
#
# It needs Debian or Ubuntu, and root. It is no part of the tests. Its last line is `shards N, requeued N, differences N`.
# CAMFLOW names another program to try than the development build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

[ "$(id -u)" -eq 0 ] || fail "Slurm's daemons need root" "run it in a container or a virtual machine, as root"
if ! command -v slurmctld >/dev/null || ! command -v slurmd >/dev/null || ! command -v munged >/dev/null; then
    step "installing slurm-wlm"
    apt-get install -y --no-install-recommends slurm-wlm munge ||
        { apt-get update && apt-get install -y --no-install-recommends slurm-wlm munge; } ||
        fail "Slurm cannot be installed" "apt-get install slurm-wlm munge"
fi
if [ -z "${CAMFLOW:-}" ]; then
    step "building camflow"
    LIBTORCH="${LIBTORCH:-$(cd .venv && pwd -P)/libtorch}" cargo build --locked
    CAMFLOW="${CARGO_TARGET_DIR:-target}/debug/camflow"
fi
exec "$camflow_python" scripts/lab/slurm.py --camflow "$CAMFLOW" "$@"
