#!/usr/bin/env bash
# Unpacks what scripts/gpu.sh pack has made and runs the steps: scripts/gpu.sh check [cpu].
#
#   DEVICE=cuda|cpu   SIZE=full|tiny   BUDGET_S=450   STEPS="sanity rates ..."   PYTHON=python3   OUT=folder for results
#
# README.md beside this file says what the steps are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
kit=scripts/lab/gpu
if [ "${1:-}" = cpu ]; then
    export DEVICE=cpu SIZE=tiny BUDGET_S="${BUDGET_S:-3000}" PYTHON="${PYTHON:-$PWD/.venv/bin/python}"
    CHECK_WORK="$(mktemp -d)"
    trap 'rm -rf "$CHECK_WORK"' EXIT
fi
export CHECK_ROOT="$PWD" OUT="${OUT:-.gpu/out}" CHECK_WORK="${CHECK_WORK:-/tmp/camflow-gpu}"
python="${PYTHON:-python3}"
mkdir -p "$OUT" "$CHECK_WORK"
exec > >(tee "$OUT/log") 2>&1
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

torch="$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')"
if [ ! -e "$CHECK_WORK/.ready" ]; then
    start=$(date +%s)
    for archive in .gpu/carry/*.tar.xz; do
        if command -v xz >/dev/null; then
            XZ_DEFAULTS=-T0 tar -xJf "$archive" -C "$CHECK_WORK"
        else
            "$python" -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2], filter="tar")' "$archive" "$CHECK_WORK"
        fi
    done
    # Packages of the machine come first: ours are only those that it lacks. A module that appends does that, PYTHONPATH would not.
    mkdir -p "$CHECK_WORK/tail"
    printf 'import sys\nsys.path.append("%s")\n' "$CHECK_WORK/site" >"$CHECK_WORK/tail/sitecustomize.py"
    touch "$CHECK_WORK/.ready"
    echo "unpacked in $(($(date +%s) - start)) s"
fi
export PYTHONPATH="$CHECK_WORK/tail:$PWD/python"

# The program was linked against another folder of the same torch.
libraries="$torch/lib"
if ! ldconfig -p 2>/dev/null | grep -q 'libcuda\.so\.1'; then
    for folder in /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/x86_64-linux-gnu /usr/lib/wsl/lib; do
        if [ -e "$folder/libcuda.so.1" ]; then libraries="$libraries:$folder" && break; fi
    done
fi
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" PATH="$CHECK_WORK/bin:$PATH"
versions='import sys, torch; print(sys.version.split()[0], torch.__version__, torch.version.cuda, torch.cuda.is_available())'
echo "glibc $(ldd --version | head -1 | grep -o '[0-9.]*$'), $(nproc) cores, torch at $torch, $("$python" -c "$versions")"
for program in camflow device_rate mongod.real; do
    path="$LD_LIBRARY_PATH"
    [ "$program" != mongod.real ] || path="$CHECK_WORK/lib"
    missing="$(LD_LIBRARY_PATH="$path" ldd "$CHECK_WORK/bin/$program" 2>&1 | grep -E 'not found|version `' || true)"
    [ -z "$missing" ] || echo "FAULT: $program lacks $missing"
done
"$python" - <<'W'
import importlib

for name in ("torchvision", "pytorch_grad_cam", "ttach", "timm", "cv2", "sklearn", "skimage", "pymongo", "bson", "PIL", "fiftyone"):
    try:
        module = importlib.import_module(name)
        print("package", name, getattr(module, "__version__", ""), module.__file__)
    except Exception as error:
        print("FAULT: package", name, error)
W
export FIFTYONE_DO_NOT_TRACK=true FIFTYONE_CONFIG_PATH="$CHECK_WORK/fiftyone.json" HOME="${HOME:-/tmp}"
"$python" "$kit/check.py"
