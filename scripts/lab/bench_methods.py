"""How long methods take that ask a network many times, or for many classes, in processor seconds, which other work hardly changes.

    bash scripts/setup.sh && cargo build --release --bins --examples
    .venv/bin/python scripts/lab/bench_methods.py [--camflow BINARY] [--model resnet50] [--size 224] [--repeat 1]

ResNet-50 with random weights, one image, the last stage (2048 channels). First what the device does for one class and for all of them,
method by method: an image of several, so that start, loading and the first image do not count. `maps` is without drawing (heatmaps of the
layer's size), `drawn` with it. Then the gradient-free methods, camflow beside pytorch_grad_cam in turns, a batch of 32: camflow's time is
that of the whole process, start and loading included, the reference's, always in fp32, that of the call alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import grad_cam_reference
import parity

# Those whose maps of all classes come of gradients that no image changes, and one that looks at no class.
OF_CLASSES = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam-elementwise", "shapleycam", "eigencam"]


def processor_seconds(who: int) -> float:
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def device_seconds(
    program: Path, archive: Path, image: Path, layer: str, device: str, classes: int, method: str, size: str
) -> float:
    """Processor seconds that an image takes on the device, beside the first."""

    def loop(count: int) -> float:
        command = [program, archive, image, "classes", classes, layer, device, count, 1, "fp32", method, size]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)["cpu_s"]

    return (loop(6) - loop(1)) / 5


def all_classes(args: argparse.Namespace, archive: Path, image: Path, device: str, classes: int) -> None:
    print(
        f"| method | maps, 1 class | maps, {classes} | ratio | drawn, 1 class | drawn, {classes} |\n| --- | --- | --- | --- | --- | --- |"
    )
    for method in OF_CLASSES:
        found = {}
        for _ in range(args.repeat):
            for size in ("layer", "input"):
                for count in (1, classes):
                    took = device_seconds(args.device_rate, archive, image, args.layer, device, count, method, size)
                    found[size, count] = min(took, found.get((size, count), took))
        maps, drawn = ([1000 * found[size, count] for count in (1, classes)] for size in ("layer", "input"))
        ratio = maps[1] / maps[0]
        cells = [method, f"{maps[0]:.1f} ms", f"{maps[1]:.1f} ms", f"{ratio:.2f}", f"{drawn[0]:.1f} ms", f"{drawn[1]:.1f} ms"]
        print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "release" / "camflow", metavar="BINARY")
    parser.add_argument("--device-rate", type=Path, metavar="BINARY", help="examples/device_rate beside camflow")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["ablationcam", "scorecam"])
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--classes", type=int, default=1000, help="of the model; 0 leaves them out")
    args = parser.parse_args()
    args.device_rate = args.device_rate or args.camflow.parent / "examples" / "device_rate"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = parity.Case(f"torchvision:{args.model}", (args.layer,), (args.size, args.size))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        archive = parity.exported(case, folder)
        model = parity.Logits(parity.network(case.model, archive)).eval().requires_grad_(True).to(device)
        pixels = parity.picture(*case.size, seed=0)
        np.save(folder / "input.npy", pixels.numpy())
        layers = [model.model.get_submodule(args.layer)]
        name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
        print(f"{args.model}, {args.layer}, {args.size} px, batch {grad_cam_reference.REPEATS}, on {device} ({name})")
        if args.classes:
            all_classes(args, archive, folder / "input.npy", device, args.classes)
        print("\n| method | precision | pytorch_grad_cam | camflow | ratio | largest difference |")
        print("| --- | --- | --- | --- | --- | --- |", flush=True)
        for method in args.methods:
            theirs, wanted = math.inf, None
            ours: dict[str, float] = {}
            for _ in range(args.repeat):
                start = processor_seconds(resource.RUSAGE_SELF)
                with contextlib.redirect_stderr(io.StringIO()):
                    wanted = grad_cam_reference.reference_map(
                        case, model, layers, pixels.to(device), None, 7, method, eigen=False, aug=False
                    )
                theirs = min(theirs, processor_seconds(resource.RUSAGE_SELF) - start)
                for precision in args.precisions:
                    took = explain_seconds(args, archive, folder, method, precision, device)
                    ours[precision] = min(took, ours.get(precision, took))
            for precision, took in ours.items():
                [found] = (folder / precision).glob(f"*.{method}.*.npy")
                difference = np.abs(np.load(found) - wanted).max()
                cells = [method, precision, f"{theirs:.1f} s", f"{took:.1f} s", f"{theirs / took:.1f}", f"{difference:.1e}"]
                print(f"| {' | '.join(cells)} |", flush=True)


def explain_seconds(args: argparse.Namespace, archive: Path, folder: Path, method: str, precision: str, device: str) -> float:
    """Processor seconds of a process that explains the image, of which the heatmap is in a folder of the precision's name."""
    command = [args.camflow, "explain", folder / "input.npy", "--model", archive, "--class", 7, "--layers", args.layer]
    command += ["--method", method, "--precision", precision, "--device", device, "--out", folder / precision, "--format", "json"]
    start = processor_seconds(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return processor_seconds(resource.RUSAGE_CHILDREN) - start


if __name__ == "__main__":
    main()
