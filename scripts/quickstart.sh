#!/usr/bin/env bash
# From a fresh checkout to heatmaps in the FiftyOne App:
#
#   bash scripts/quickstart.sh [FLAGS OF camflow annotate]
#
# Every step is skipped when it is done already. Without a way to the FiftyOne
# zoo a small stand-in takes the place of its dataset and model. Where a wheel of
# scripts/build_wheel.sh lies in `dist`, nothing is compiled.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
camflow_wheel="$(find dist -name 'camflow-*.whl' 2>/dev/null | sort | tail -n 1 || true)"
# shellcheck source=scripts/setup.sh
source scripts/setup.sh

# Beside the packages of `.venv`, which other clones use, too.
install_wheel() {
    rm -rf "$1"
    "$camflow_python" -m venv --without-pip "$1"
    packages_of "$camflow_python" >"$(packages_of "$1/bin/python")/shared.pth"
    "$camflow_python" -m pip --python "$1/bin/python" install --disable-pip-version-check --no-deps "$camflow_wheel"
    touch "$1/.complete"
}

if [ -n "$camflow_wheel" ]; then
    installed="$camflow_cache/installed-$(sha256sum "$camflow_wheel" | cut -c1-8)"
    [ -e "$installed/.complete" ] || logged "installing $camflow_wheel (without it, camflow is built from source)" install_wheel "$installed"
    camflow="$installed/bin/camflow"
else
    shared_target "${CARGO_TARGET_DIR:-target}" quick
    # Not `release`, which takes twice as long to compile: most of the work is done in libtorch.
    logged "building camflow (the first time takes some minutes)" cargo build --profile quick --locked
    camflow="${CARGO_TARGET_DIR:-target}/quick/camflow"
fi

step "the dataset \`quickstart\`"
# Its last line names the model; everything is shown as it comes.
said="$(mktemp)"
trap 'rm -f "$said"' EXIT
"$camflow_python" scripts/quickstart_data.py | tee "$said"
reference="$(sed -n 's/^model: //p' "$said" | tail -n 1)"

# What the archive is made from: it is made again when one of these is newer.
inputs=(scripts/quickstart.sh python/camflow/export/*.py python/camflow/export/loaders/*.py)
if [ "${reference%%:*}" = scripts/lab/standin/model.py ]; then
    name=standin-deeplab
    inputs+=(scripts/lab/standin/model.py scripts/lab/standin/weights.pt)
else
    name="$reference"
fi
model="$camflow_cache/models/$name.pt2"
stale=
for input in "${inputs[@]}"; do
    if [ ! -e "$model" ] || [ "$input" -nt "$model" ]; then stale="$input"; fi
done
if [ -n "$stale" ]; then
    mkdir -p "$(dirname "$model")"
    logged "exporting the model to $model" "$camflow_python" scripts/export_model.py "$reference" --out "$model" --name "$name" --force \
        --measure-with "$camflow"
fi

step "heatmaps of what makes a pixel a person, at four layers of the network"
"$camflow" annotate --dataset quickstart --class person --layers 1-4 \
    --target labels:resnet50_seg --model "$model" "$@"

cat <<END

Next:
  look at them        .venv/bin/fiftyone app launch quickstart
                      person_grad_layer_4 is ticked at the left, its three neighbours are beside it
  where it looks      $camflow report --dataset quickstart --out report.html
  your own            $camflow annotate --dataset NAME --class CLASS --model MODEL
                      MODEL is a name of FiftyOne's zoo, torchvision or timm, or a function: docs/how-to/models.md
END
