#!/usr/bin/env bash
# Format, lints and types of all Python:
#
#   bash scripts/lint.sh [check]
#   bash scripts/lint.sh fix      formats, and mends what ruff can mend
#
# Its tools live in an environment of their own outside the checkout. pyproject.toml has the settings.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=scripts/tool_environment.sh
source scripts/tool_environment.sh
tool_environment lint scripts/lint_requirements.txt

places=(fuzz pipelines python scripts tests)
case "${1:-check}" in
    check)
        "$env/bin/ruff" format --check --quiet "${places[@]}"
        "$env/bin/ruff" check "${places[@]}"
        # A folder of another name is no package to mypy.
        plugin="$(mktemp -d)"
        trap 'rm -rf "$plugin"' EXIT
        ln -s "$PWD/pipelines/fiftyone-plugin" "$plugin/fiftyone_plugin"
        for package in camflow annotate fiftyone_plugin; do
            MYPYPATH="$plugin" "$env/bin/mypy" --no-error-summary --cache-dir "$cache/mypy" -p "$package"
        done
        ;;
    fix)
        "$env/bin/ruff" check --fix "${places[@]}"
        exec "$env/bin/ruff" format "${places[@]}"
        ;;
    *)
        printf 'error: %s is neither check nor fix\n' "$1" >&2
        exit 2
        ;;
esac
