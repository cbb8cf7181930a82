"""One photograph by all methods that EfficientNet-Lite0 takes: the picture of docs/reference/methods.md.

    .venv/bin/python scripts/lab/method_pictures.py --camflow BINARY [--out docs/methods.jpg]

The photograph is scikit-image's cup of coffee, the weights are published ones, the class is the one that the model puts first. Methods
that ask the network again for every channel look at the third layer, which has 40 of them, all others at the last one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from skimage import data

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "scripts" / "lab" / "efficientnet_lite0.py"
# By what they look at: the layers, and more flags.
RUNS = {
    ("6", ()): (
        *("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam-elementwise", "eigengradcam", "segeigencam"),
        *(
            "shapleycam",
            "finercam",
            "cam",
            "smoothgradcam++",
            "groupcam",
            "ablationcam",
            "reciprocam",
            "eigencam",
            "kpcacam",
            "fem",
        ),
        *("fullgrad", "saliency", "smoothgrad", "integrated-gradients", "occlusion", "randomcam"),
    ),
    ("3", ()): ("scorecam", "sscam", "iscam"),
    ("4-6", ()): ("refinecam",),
    ("6", ("--cam-samples", "1000")): ("rise",),
}
COLUMNS, SIDE, TITLE = 7, 200, 22


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "methods.jpg", metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photo, archive = folder / "coffee.jpg", folder / "model.pt2"
        Image.fromarray(data.coffee()).crop((100, 0, 500, 400)).save(photo, quality=92)
        run(args.camflow, "export", f"{MODEL}:efficientnet_lite0", "--out", archive, "--python", sys.executable)
        pictures = {"the photograph": Image.open(photo).convert("RGB")}
        for (layers, flags), methods in RUNS.items():
            out = folder / f"maps-{layers}-{len(flags)}"
            run(
                *(args.camflow, "explain", photo, "--model", archive, "--target", "top", "--layers", layers, "--device", "cpu"),
                *("--method", ",".join(methods), "--out", out, *flags),
            )
            for method in methods:
                [overlay] = out.glob(f"coffee.top.{method}.layer_*.overlay.png")
                pictures[method] = Image.open(overlay).convert("RGB")
        sheet(pictures).save(args.out, quality=85, optimize=True)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)


def sheet(pictures: dict[str, Image.Image]) -> Image.Image:
    """All of them with their names above."""
    rows = -(-len(pictures) // COLUMNS)
    made = Image.new("RGB", (COLUMNS * (SIDE + 6) - 6, rows * (SIDE + TITLE + 6) - 6), "white")
    drawing, font = ImageDraw.Draw(made), ImageFont.load_default(14)
    for number, (name, picture) in enumerate(pictures.items()):
        left, top = number % COLUMNS * (SIDE + 6), number // COLUMNS * (SIDE + TITLE + 6)
        drawing.text((left + 2, top + 2), name, "black", font)
        made.paste(picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (left, top + TITLE))
    return made


if __name__ == "__main__":
    main()
