"""The figures of `camflow check-model` beside those of Quantus.

    bash scripts/lab/sanity.sh [--model ARCHIVE]

Checks a trained classifier on two photographs with `--out`, and gives Quantus the same maps: `quantus.MPRT`, `AvgSensitivity`,
`MaxSensitivity` and `EfficientMPRT` call the functions that are called here, `quantus.similarity_func`, `norm_func` and
`complexity_func`. `quantus.AvgSensitivity` and `MaxSensitivity` are also run themselves, on an explanation that gives the maps of noise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import quantus
import skimage.data
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6


class Tally:
    """What agrees, and what does not."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.largest = 0.0

    def add(self, what: str, found: float | None, wanted: float) -> None:
        """Compares a figure; None is what Quantus has NaN for."""
        distance = 0.0 if found is None and np.isnan(wanted) else abs((np.nan if found is None else found) - wanted)
        if distance <= TOLERANCE:
            self.passed += 1
            self.largest = max(self.largest, distance)
        else:
            self.failed += 1
            print(f"{what}: {found} instead of {wanted}")


class Still:
    """Gives Quantus one map for the image and another one for the image with noise."""

    def __init__(self, original: np.ndarray, noisy: np.ndarray) -> None:
        self.original, self.noisy = original, noisy

    def __call__(self, model, inputs, targets, **more) -> np.ndarray:
        is_noisy = np.abs(inputs).max() > 0
        return (self.noisy if is_noisy else self.original)[None, None]


def sensitivities(original: np.ndarray, noisy: np.ndarray) -> tuple[float, float]:
    """Quantus' own average and maximum sensitivity, of one draw of noise."""
    import torch

    side = original.shape
    blank = np.zeros((1, 1, *side), np.float32)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(side[0] * side[1], 2)).eval()
    found = []
    for metric in (quantus.AvgSensitivity, quantus.MaxSensitivity):
        made = metric(nr_samples=1, lower_bound=0.2, disable_warnings=True)
        call = made(
            model=network,
            x_batch=blank,
            y_batch=np.zeros(1, int),
            a_batch=original[None, None],
            explain_func=Still(original, noisy),
        )
        found.append(float(call[0]))
    return found[0], found[1]


def compare(numbers: dict, folder: Path, tally: Tally) -> None:
    """All maps of a check."""
    names = {f"randomised_{step + 1}": ("cascading", step) for step in range(len(numbers["steps"]))}
    names |= {f"alone_{step + 1}": ("independent", step) for step in range(len(numbers["steps"]))}
    names |= {"mirrored": ("flip", None)}
    similarity = quantus.similarity_func
    for image in numbers["images"]:
        for column, heatmap in zip(numbers["columns"], image["heatmaps"], strict=True):
            stem = f"{image['name']}.{image['class']}.{column['method']}.layer_{column['layer']}".replace(" ", "_")
            maps = {file.stem[len(stem) + 1 :]: np.load(file).astype(np.float64) for file in folder.glob(f"{stem}.*.npy")}
            original = maps["original"]
            for name, (kind, place) in names.items():
                found = heatmap[kind] if place is None else heatmap[kind][place]
                other = maps[name]
                what = f"{stem}.{name}"
                a, b = original.ravel(), other.ravel()
                tally.add(f"{what} spearman", found["spearman"], similarity.correlation_spearman(a, b))
                tally.add(f"{what} pearson", found["pearson"], similarity.correlation_pearson(a, b))
                tally.add(f"{what} ssim", found["ssim"], similarity.ssim(original, other))
            average, maximum = sensitivities(original, maps["noise"])
            tally.add(f"{stem} average sensitivity", heatmap["avg_sensitivity"], average)
            tally.add(f"{stem} maximum sensitivity", heatmap["max_sensitivity"], maximum)
            for key, name in (("entropy", "original"), ("entropy_randomised", f"randomised_{len(numbers['steps'])}")):
                wanted = quantus.complexity_func.discrete_entropy(a=maps[name], x=maps[name])
                tally.add(f"{stem} {key}", heatmap[key], wanted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", default="camflow", help="the program")
    parser.add_argument("--model", type=Path, help="an archive; default: EfficientNet-Lite0 with its published weights")
    options = parser.parse_args()
    tally = Tally()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        for name in ("chelsea", "coffee"):
            Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.png")
        model = options.model or folder / "model.pt2"
        if options.model is None:
            source = ROOT / "scripts" / "lab" / "efficientnet_lite0.py"
            command = [
                sys.executable,
                str(ROOT / "scripts" / "export_model.py"),
                f"{source}:efficientnet_lite0",
                "--out",
                str(model),
            ]
            subprocess.run(command, check=True, cwd=ROOT)
        images = sorted(str(image) for image in folder.glob("*.png"))
        flags = ["--method", "gradcam,layercam,eigencam,randomcam", "--draws", "1", "--independent", "--device", "cpu"]
        files = ["--json", str(folder / "numbers.json"), "--out", str(folder / "maps")]
        subprocess.run([options.camflow, "check-model", str(model), *images, *flags, *files], check=True)
        compare(json.loads((folder / "numbers.json").read_text()), folder / "maps", tally)
    print(f"largest distance from Quantus {quantus.__version__}: {tally.largest:.1e}")
    print(f"{tally.passed} passed, {tally.failed} failed")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
