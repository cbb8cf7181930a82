#!/usr/bin/env bash
# Builds the documentation site, with every warning (a broken link, a page that no menu has) as an error:
#
#   bash scripts/docs.sh [build] [FLAGS OF mkdocs build]
#   bash scripts/docs.sh serve      shows it at http://127.0.0.1:8000 while you write
#
# Its tools live in an environment of their own outside the checkout, and so does the site, unless --site-dir says otherwise.
# docs/reference/cli.md and job-file.md are the program's own texts: `python3 scripts/write_reference.py` writes them anew.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache="${CAMFLOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/camflow}"
python="${CAMFLOW_PYTHON:-python3}"
env="$cache/docs-$( (cat docs/requirements.txt && "$python" -VV) | sha256sum | cut -c1-8)"
mkdir -p "$cache"
(
    flock 9
    if [ ! -e "$env/.complete" ]; then
        rm -rf "$env"
        "$python" -m venv "$env"
        "$env/bin/python" -m pip install --quiet --disable-pip-version-check -r docs/requirements.txt
        touch "$env/.complete"
    fi
) 9>"$cache/docs.lock"

command="${1:-build}"
[ $# -eq 0 ] || shift
# The theme's makers advertise in its output.
export NO_MKDOCS_2_WARNING=1
case "$command" in
    build) exec "$env/bin/python" -m mkdocs build --strict --quiet --site-dir "$cache/site" "$@" ;;
    serve) exec "$env/bin/python" -m mkdocs serve "$@" ;;
    *)
        printf 'error: %s is neither build nor serve\n' "$command" >&2
        exit 2
        ;;
esac
