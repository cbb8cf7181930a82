#!/usr/bin/env bash
# How fast and how right camflow is on a GPU machine, which may have no network and little time:
#
#   bash scripts/gpu.sh pack [--dev]   on a machine with a network: packs .gpu/carry, which travels with the checkout
#   bash scripts/gpu.sh check          on the GPU machine: takes it and measures
#   bash scripts/gpu.sh check cpu      tries all steps of the check on this machine's CPU, with small numbers
#
# scripts/lab/gpu/README.md says what the steps are, and what good figures are.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
case "${1:-}" in
    pack | check) exec bash "$here/lab/gpu/$1.sh" "${@:2}" ;;
    *)
        printf 'error: pack or check, not `%s`\n' "${1:-}" >&2
        exit 2
        ;;
esac
