"""Installs a wheel of scripts/build_wheel.sh into environments with different torch, and compares what comes of it.

    .venv/bin/python scripts/wheel/check.py WHEEL VERSION...

The first environment has the torch of `.venv`. The others have their own and take everything else from there, the libraries of CUDA,
too, where theirs is the same. The model is exported once, by `.venv`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import fiftyone as fo
import numpy as np
from PIL import Image
from skimage import data

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lab"))

from private_mongod import PrivateMongod

SITE = Path(sysconfig.get_path("purelib"))
# Sums in another order, at the end of a hundred layers.
TOLERANCE = 1e-4


def run(*command: object, **more: object) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run([str(part) for part in command], check=False, stdout=subprocess.PIPE, text=True, **more)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}"
    return done.stdout


def environment(folder: Path, version: str | None, wheel: Path) -> Path:
    """A Python environment with that torch, or that of `.venv`, and with the wheel; its folder of programs."""
    run(f"{sys.base_prefix}/bin/python3", "-m", "venv", folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    [site] = folder.glob("lib/python3*/site-packages")
    (site / "shared.pth").write_text(f"{SITE}\n")
    if version:
        run(*pip, "--ignore-installed", f"torch=={version}")
        if "+cu12" in (site / "torch" / "version.py").read_text():
            # Another CUDA than that of `.venv`: what a CPU needs of it.
            run(*pip, "nvidia-cuda-cupti-cu12", "nvidia-cuda-runtime-cu12")
        else:
            (site / "nvidia").symlink_to(SITE / "nvidia")
    since = time.monotonic()
    run(*pip, wheel)
    print(f"torch {version or 'of .venv'}: the wheel is installed in {time.monotonic() - since:.1f} s", flush=True)
    return folder / "bin"


def explain(camflow: Path, image: Path, model: Path, out: Path) -> dict[str, np.ndarray]:
    """Heatmaps of one image, by the name of the file."""
    arguments = ["--model", model, "--class", "person", "--layers", "1-4", "--method", "gradcam,layercam,scorecam"]
    run(camflow, "explain", image, *arguments, "--out", out)
    return {path.name: np.load(path) for path in sorted(out.rglob("*.npy"))}


def annotate(camflow: Path, images: list[Path], model: Path, out: Path) -> dict[str, np.ndarray]:
    """Heatmaps of a dataset, by image and field."""
    dataset = fo.Dataset(out.parent.name, persistent=True)
    dataset.add_samples([fo.Sample(str(image)) for image in images], progress=False)
    arguments = ["--target", "predicted", "--class", "person", "--layers", "4", "--npy", "f32", "--out", out]
    run(camflow, "annotate", "--dataset", dataset.name, "--model", model, *arguments)
    dataset.reload()
    field = "person_grad_layer_4"
    return {Path(sample.filepath).name: np.load(sample[field].npy_path) for sample in dataset if sample[field]}


def main() -> None:
    """Fails where an environment does not work, or gives other numbers than the first."""
    wheel, versions = Path(sys.argv[1]).resolve(), sys.argv[2:]
    with tempfile.TemporaryDirectory() as scratch, PrivateMongod(Path(scratch) / "mongo") as mongod:
        fo.config.database_uri = os.environ["FIFTYONE_DATABASE_URI"] = mongod.uri
        os.environ.pop("VIRTUAL_ENV", None)
        folder = Path(scratch)
        images = [folder / f"{name}.png" for name in ("astronaut", "coffee")]
        for image in images:
            Image.fromarray(getattr(data, image.stem)()).save(image)
        model = folder / "standin.pt2"
        reference: dict[str, np.ndarray] = {}
        for version in (None, *versions):
            place = folder / f"torch-{version}"
            camflow = environment(place, version, wheel) / "camflow"
            if version:
                # Its torch is not whole there: no Python imports it.
                os.environ["CAMFLOW_PYTHON"] = sys.executable
            else:
                assert f" in {place}/bin/python\n" in run(camflow, "doctor", cwd=place), "FiftyOne beside the command"
                run(camflow, "export", f"{ROOT}/scripts/lab/standin/model.py:standin_deeplab", "--out", model)
            found = {
                **explain(camflow, images[0], model, place / "explained"),
                **annotate(camflow, images, model, place / "maps"),
            }
            assert len(found) > 12, found.keys()
            reference = reference or found
            assert found.keys() == reference.keys()
            off = max(float(np.abs(found[name] - reference[name]).max()) for name in found)
            print(f"torch {version or 'of .venv'}: {len(found)} heatmaps, at most {off:.1e} from the first", flush=True)
            assert off <= TOLERANCE
            shutil.rmtree(place)


if __name__ == "__main__":
    main()
