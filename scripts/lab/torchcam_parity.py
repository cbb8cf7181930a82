"""camflow's heatmaps beside torch-cam's, for the methods that it has and pytorch_grad_cam has not.

    torchcam_parity.py --camflow BINARY

For each network, layer and method, and for layers that are fused, the largest difference of `camflow explain --exact` to torch-cam 0.5,
given the same tensor, the same weights and, where chance plays a part, the same noise; both at the layer's own size, clipped at 0 and
scaled to [0, 1]. 1e-4 is allowed.
The last line is `N passed, N failed`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np
import torchcam.methods as reference

import torch

LAB = Path(__file__).resolve().parent
sys.path.insert(0, str(LAB))
import cam_reference
import parity

TINY = f"{LAB.parents[1] / 'tests' / 'python' / 'tiny_classifier.py'}:classifier"
METHODS = {"cam": "CAM", "smoothgradcam++": "SmoothGradCAMpp", "sscam": "SSCAM", "iscam": "ISCAM"}
# A network, its input, and each of its layers with the methods that are compared there.
CASES = (
    (TINY, (64, 64), {"layer1": ("smoothgradcam++", "sscam", "iscam"), "layer2": tuple(METHODS)}),
    (
        "torchvision:resnet18",
        (96, 112),
        {"layer1": ("sscam", "iscam"), "layer2": ("smoothgradcam++",), "layer4": ("cam", "smoothgradcam++")},
    ),
)
# With these a network's layers are fused, by `--fusion max`; torch-cam has a rule of its own for LayerCAM.
FUSED = {"gradcam": "GradCAM", "layercam": "LayerCAM"}


class Drawn:
    """Stands in for torch-cam's distribution: camflow's noise, number by number."""

    def __init__(self, deviation: float, names):
        self.deviation, self.names, self.numbers = deviation, names, count()

    def sample(self, size: torch.Size) -> torch.Tensor:
        names = self.names(size, next(self.numbers))
        return self.deviation * cam_reference.noise(names, size.numel() // len(names)).view(size)


def theirs(network: torch.nn.Module, layer: str, pixels: torch.Tensor, channel: int, method: str, key: str) -> np.ndarray:
    with getattr(reference, METHODS[method])(network, layer) as extractor:
        if method == "smoothgradcam++":
            extractor._distrib = Drawn(extractor.std, lambda _size, number: [f"{key}\0{number}"])
        if method == "sscam":
            extractor._distrib = Drawn(
                extractor.std, lambda size, number: [f"{key}\0{layer}\0{at}\0{number}" for at in range(size[1])]
            )
        scores = network(pixels)
        (saliency,) = extractor(channel, scores, normalized=False)
        return cam_reference.heatmap(saliency[0].detach())


def fused(network: torch.nn.Module, layers: list[str], pixels: torch.Tensor, channel: int, method: str) -> np.ndarray:
    with getattr(reference, FUSED[method])(network, layers) as extractor:
        maps = extractor(channel, network(pixels.clone().requires_grad_(True)))
        return extractor.fuse_cams(maps)[0].detach().numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camflow", type=Path, required=True, metavar="BINARY")
    args = parser.parse_args()
    passed = []
    with tempfile.TemporaryDirectory() as folder:
        for model, size, layers in CASES:
            case = parity.Case(model, tuple(layers), size)
            archive = Path(folder) / f"{len(passed)}.pt2"
            command = [sys.executable, parity.export_model.__file__, model, "--out", archive]
            command += [] if model == TINY else case.export
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            network = parity.export_model.load_model(model, "none").module
            network.load_state_dict(torch.export.load(archive).state_dict)
            network.eval()
            pixels, channel = parity.picture(*size, seed=7), 2

            def tell(what: str, found: np.ndarray, wanted: np.ndarray, model=model) -> None:
                largest = float(np.abs(found - wanted).max())
                passed.append(largest <= 1e-4 and wanted.std() > 0.05)
                mark = "ok    " if passed[-1] else "FAILED"
                print(f"{mark} {model.rpartition('/')[2]} {what}: max {largest:.1e}", flush=True)

            for layer, methods in layers.items():
                flags = ["--exact", "--size", "layer"]
                found = parity.camflow_maps(args.camflow, archive, case, (layer,), pixels, None, channel, methods, flags)
                for method in methods:
                    tell(f"{layer} {method}", found[method, layer], theirs(network, layer, pixels, channel, method, "input.0"))
            flags = ["--exact", "--size", "layer", "--fusion", "max"]
            found = parity.camflow_maps(args.camflow, archive, case, tuple(layers), pixels, None, channel, [*FUSED], flags)
            for method in FUSED:
                tell(f"fused {method}", found[method, "fused"], fused(network, [*layers], pixels, channel, method))
    print(f"{sum(passed)} passed, {len(passed) - sum(passed)} failed")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
