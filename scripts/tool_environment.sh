# shellcheck shell=bash
# For scripts with tools of their own (docs.sh, lint.sh): `tool_environment NAME REQUIREMENTS` makes a Python environment of these
# requirements outside the checkout, unless it is there, and sets `env` to its folder and `cache` to that of all of them.

tool_environment() {
    local name="$1" requirements="$2" python="${CAMFLOW_PYTHON:-python3}"
    cache="${CAMFLOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/camflow}"
    env="$cache/$name-$( (cat "$requirements" && "$python" -VV) | sha256sum | cut -c1-8)"
    mkdir -p "$cache"
    (
        flock 9
        if [ ! -e "$env/.complete" ]; then
            rm -rf "$env"
            "$python" -m venv "$env"
            "$env/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
            touch "$env/.complete"
        fi
    ) 9>"$cache/$name.lock"
}
