"""Methods at layers beside torch-cam's, those that it has and pytorch_grad_cam has not, and its rule for layers that are fused: rows of
`parity_table.py`. Both are given the same noise, where chance plays a part; maps are of the layer's own size, clipped at 0 and scaled to
[0, 1].
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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


def rows(binary: Path, models: Path, chosen: Callable[[str], bool]) -> Iterator[parity.Row]:
    """Of the models that are chosen; their archives are in that folder, or made."""
    for model, size, layers in CASES:
        if not chosen(model):
            continue
        case = parity.Case(model, tuple(layers), size, export=() if model == TINY else parity.Case.export)
        archive = parity.exported(case, models)
        network = parity.network(model, archive)
        pixels, channel = parity.picture(*size, seed=7), 2
        for layer, methods in layers.items():
            flags = ["--exact", "--size", "layer"]
            found = parity.camflow_maps(binary, archive, case, (layer,), pixels, None, channel, methods, flags)
            for method in methods:
                wanted = theirs(network, layer, pixels, channel, method, "input.0")
                yield parity.beside("torch-cam", model, method, found[method, layer], wanted)
        flags = ["--exact", "--size", "layer", "--fusion", "max"]
        found = parity.camflow_maps(binary, archive, case, tuple(layers), pixels, None, channel, [*FUSED], flags)
        for method in FUSED:
            wanted = fused(network, [*layers], pixels, channel, method)
            yield parity.beside("torch-cam", model, f"{method}, layers fused", found[method, "fused"], wanted)
