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

# shellcheck source=scripts/tool_environment.sh
source scripts/tool_environment.sh
tool_environment docs docs/requirements.txt

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
