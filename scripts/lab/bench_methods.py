"""How long the gradient-free methods take: camflow beside pytorch_grad_cam, in one run, on the same image and weights.

    bash scripts/setup.sh && cargo build --release
    .venv/bin/python scripts/lab/bench_methods.py [--camflow BINARY] [--model resnet50] [--size 224] [--repeat 1]

ResNet-50 with random weights, one image, the last stage (2048 channels), a batch of 32. camflow's time is that of the whole
process, start and loading of the model included; the reference's is that of the call alone.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import parity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = Path(__file__).resolve().parents[2]
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    parser.add_argument("--camflow", type=Path, default=target / "release" / "camflow", metavar="BINARY")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--layer", default="layer4")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--methods", nargs="+", default=["ablationcam", "scorecam"])
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    case = parity.Case(f"torchvision:{args.model}", (args.layer,), (args.size, args.size))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        archive = parity.exported(case, folder)
        module = parity.export_model.load_model(case.model, "none").module
        module.load_state_dict(torch.export.load(archive).state_dict)
        model = parity.Logits(module).eval().requires_grad_(True).to(device)
        pixels = parity.picture(*case.size, seed=0)
        np.save(folder / "input.npy", pixels.numpy())
        layers = [model.module.get_submodule(args.layer)]
        name = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} threads"
        print(f"{args.model}, {args.layer}, {args.size} px, batch {parity.REPEATS}, on {device} ({name})")
        print("| method | pytorch_grad_cam | camflow | ratio |\n| --- | --- | --- | --- |", flush=True)
        for method in args.methods:
            theirs, ours = [], []
            for _ in range(args.repeat):
                start = time.perf_counter()
                with contextlib.redirect_stderr(io.StringIO()):
                    wanted = parity.reference_map(case, model, layers, pixels.to(device), None, 7, method, eigen=False, aug=False)
                theirs.append(time.perf_counter() - start)
                command = [
                    args.camflow,
                    "explain",
                    folder / "input.npy",
                    "--model",
                    archive,
                    "--class",
                    7,
                    "--layers",
                    args.layer,
                ]
                command += ["--method", method, "--device", device, "--out", folder / "maps", "--format", "json"]
                start = time.perf_counter()
                subprocess.run([str(part) for part in command], check=True, capture_output=True)
                ours.append(time.perf_counter() - start)
            [found] = (folder / "maps").glob(f"*.{method}.*.npy")
            difference = np.abs(np.load(found) - wanted).max()
            print(f"| {method} | {min(theirs):.1f} s | {min(ours):.1f} s | {min(theirs) / min(ours):.1f} |", flush=True)
            print(f"  (largest difference {difference:.1e})", file=sys.stderr)


if __name__ == "__main__":
    main()
