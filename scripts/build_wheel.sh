#!/usr/bin/env bash
# Builds a wheel that needs no compiler where it is installed and works with several torch:
#
#   bash scripts/build_wheel.sh [--out FOLDER] [--torch VERSION]...
#
# VERSION is 2.15, which means its last release, or 2.15.0; without any it is those below. The wheel goes to `dist`. What was
# compiled for a torch is kept beside the program, and compiled again when its sources change. scripts/wheel/shim.py says what is
# compiled for each torch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/tool_environment.sh
source scripts/tool_environment.sh

versions=()
out=dist
while [ $# -gt 0 ]; do
    case "$1" in
        --out) out="${2:?--out takes a folder}" ;;
        --torch) versions+=("${2:?--torch takes a version}") ;;
        *)
            printf 'error: %s is neither --out nor --torch\n' "$1" >&2
            exit 2
            ;;
    esac
    shift 2
done
[ ${#versions[@]} -gt 0 ] || versions=(2.10 2.11 2.12 2.13 2.14 2.15)

tool_environment wheel scripts/wheel/requirements.txt
python="$env/bin/python"
# In a folder of its own: the program is linked in another way, and the usual one would be compiled again after it.
target="${CARGO_TARGET_DIR:-$cache/target}/for-wheel"
# shellcheck source=scripts/shared_target.sh
source scripts/shared_target.sh
shared_target "$target" release
work="$target/shim"
mkdir -p "$work/stub"
step() { printf '==> %s (%s s)\n' "$*" "$SECONDS"; }

step "the program, without libtorch"
"$python" scripts/wheel/shim.py stub "$work/stub/stub.c"
"${CC:-cc}" -shared -w -fno-builtin -Wl,-soname,libcamflow_torch.so -o "$work/stub/libcamflow_torch.so" "$work/stub/stub.c"
# In place of the build scripts that compile C++ against libtorch. $ORIGIN: no path of this machine goes along.
host="$(rustc -vV | sed -n 's/^host: //p')"
cat >"$work/cargo.toml" <<CARGO
[target.$host.tch]
rustc-link-lib = ["dylib=camflow_torch"]
rustc-link-search = ["native=$work/stub"]
libtorch_lib = "\$ORIGIN"
[target.$host.camflow_dispatch]
rustc-env = { CAMFLOW_LIBTORCH_LIB = "\$ORIGIN" }
libtorch_lib = "\$ORIGIN"
CARGO
rm -rf "$work/plain"
CARGO_TARGET_DIR="$target" "$env/bin/maturin" build --quiet --release --config "$work/cargo.toml" --out "$work/plain"

step "the functions that the program calls"
"$python" scripts/wheel/shim.py source "$target/release/camflow" "$work"

# Of a torch only the headers and two libraries are needed.
compile() {
    local version="$1" folder="$2" scratch="$3" torch
    [[ "$version" == *.*.* ]] || version="$version.*"
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$scratch" "torch==$version"
    "$python" -c 'import sys, zipfile
[archive] = sys.argv[2:]
with zipfile.ZipFile(archive) as torch:
    wanted = ("torch/include/", "torch/lib/libtorch_cpu.so", "torch/lib/libc10.so")
    torch.extractall(sys.argv[1], [name for name in torch.namelist() if name.startswith(wanted)])' "$scratch" "$scratch"/torch-*.whl
    torch="$scratch/torch"
    rm "$scratch"/torch-*.whl
    mkdir -p "$folder"
    "${CXX:-c++}" -std=c++20 -O2 -fPIC -shared -w -ffunction-sections -fdata-sections -fvisibility-inlines-hidden \
        -I "$torch/include" -I "$torch/include/torch/csrc/api/include" -I "$work/tch" "$work/shim.cpp" \
        -o "$folder/libcamflow_torch.so" -L "$torch/lib" -ltorch_cpu -lc10 -s -Wl,--gc-sections \
        -Wl,--version-script="$work/shim.map" -Wl,-soname,libcamflow_torch.so -Wl,-z,defs -Wl,-z,now -Wl,--allow-shlib-undefined
}

digest="$(cat "$work"/shim.{cpp,map} src/torch/src/program/*.{cpp,h} | sha256sum | cut -c1-16)"
rm -rf "$work/chosen"
mkdir "$work/chosen"
for version in "${versions[@]}"; do
    minor="$(cut -d. -f1,2 <<<"$version")"
    made="$work/made/$version-$digest"
    if [ ! -e "$made/.complete" ]; then
        step "compiling for torch $version"
        rm -rf "$work/made/$version-"* "$work/scratch"
        mkdir "$work/scratch"
        compile "$version" "$made" "$work/scratch"
        rm -rf "$work/scratch"
        touch "$made/.complete"
    fi
    mkdir "$work/chosen/torch-$minor"
    cp "$made/libcamflow_torch.so" "$work/chosen/torch-$minor/"
done

step "packing"
"$python" scripts/wheel/assemble.py "$work"/plain/*.whl "$work/chosen" "$out"
step "done"
ls -l "$out"/*.whl
