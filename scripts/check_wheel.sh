#!/usr/bin/env bash
# Installs camflow as users do, with `pip install .`, into an environment of its own that sees the packages of `.venv`, and
# looks at what comes of it. Then the same with a wheel for several torch.
# Two release builds: it takes some minutes.
#
#   bash scripts/check_wheel.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
step "making an environment that sees the packages of .venv"
"$("$camflow_python" -c 'import sys; print(f"{sys.base_prefix}/bin/python3")')" -m venv "$work/env"
packages_of "$camflow_python" >"$(packages_of "$work/env/bin/python")/shared.pth"

step "pip wheel ."
target="${CARGO_TARGET_DIR:-$camflow_cache/target}"
shared_target "$target" release
# The LIBTORCH of the checkout is not what users have.
env -u LIBTORCH CARGO_TARGET_DIR="$target" \
    "$work/env/bin/pip" wheel --no-deps --wheel-dir "$work/wheel" .
"$work/env/bin/python" - "$work"/wheel/*.whl <<'CHECK'
import sys, zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
print(*names, sep="\n")
assert any(name.endswith("/scripts/camflow") for name in names), "no program"
assert {"camflow/export/cli.py", "camflow/py.typed"} <= set(names), "no Python package"
libraries = [name for name in names if ".so" in name or "libtorch" in name]
assert not libraries, f"bundled: {libraries}"
CHECK
ls -l "$work/wheel"
"$work/env/bin/pip" install --no-deps "$work"/wheel/*.whl

step "the installed program, from another folder"
cd "$work"
env/bin/camflow --version
env/bin/camflow doctor || true
env/bin/python -m camflow.export --help > help
grep -q '^usage: ' help
step "one explanation"
mkdir maps
env/bin/camflow export "$camflow_root/scripts/lab/standin/model.py:standin_deeplab" --out standin.pt2
env/bin/python -c 'from skimage import data, io; io.imsave("astronaut.png", data.astronaut())'
env/bin/camflow explain astronaut.png --model standin.pt2 --class person --layers 1-4 --out maps
ls maps

# It downloads about 6 GB of torch, one after the other.
step "a wheel for several torch, in environments with different ones"
cd "$camflow_root"
bash scripts/build_wheel.sh --out "$work/dist"
"$camflow_python" scripts/wheel/check.py "$work"/dist/*.whl 2.10.0 2.12.1 2.15.0
