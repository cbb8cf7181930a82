"""camflow's heatmaps beside pytorch_grad_cam's, and those of methods that it lacks beside what their papers say: the comparisons of
`parity_table.py`, which says what is allowed.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import attention_reference
import cam_reference
import export_model
from attention_reference import Tower
from grad_cam_reference import JOINING, METHODS, PROBING, picture, wanted_map
from identity import identity
from logits import Logits

PROJECTING = {"eigencam", "eigengradcam", "segeigencam", "kpcacam"}
ILL_CONDITIONED = {"fem", "xgradcam"}  # a last bit may move the map by any amount
# So here: with these random weights a ReLU's input may be so near 0 that fp32 opens it and fp64 does not. The reference's own fp32 is up to
# 1e-3 from its fp64 for some pictures, and as near as elsewhere for others.
ILL_CONDITIONED_PAIRS = {("torchvision:shufflenet_v2_x1_0", "fullgrad"), ("torchvision:wide_resnet50_2", "fullgrad")}
UNSMOOTHED = {"eigencam", "eigengradcam", "segeigencam", "kpcacam", "fem"}  # --eigen-smooth changes nothing
FOR_CLASSIFIERS_ONLY = {"finercam"}
# The reference forgets to reshape activations for ShapleyCAM, and fails on other layouts than [N, C, H, W].
FOR_MAPS_ONLY = frozenset({"shapleycam"})
# Transformers: where their blocks are, how many tokens come before the patches, the grid of these, and which of all the output reads.
GRID = (14, 14)
ATTENTION = {
    "timm:deit_tiny_patch16_224": ("blocks", 1, GRID, [0]),
    "timm:deit_tiny_distilled_patch16_224": ("blocks", 2, GRID, [0, 1]),
}
# Classifiers that end in pooling and a linear layer, for the methods that `cam_reference.py` has.
POOLED = ("torchvision:resnet18", "torchvision:efficientnet_b0")


@dataclasses.dataclass
class Case:
    """A model with the layers to look at. The gradient-free methods, which cost a pass a channel, look at the last one only."""

    model: str
    layers: tuple[str, ...]
    size: tuple[int, int]
    layout: str = "nchw"
    grid: tuple[int, int] | None = None
    prefix: int = 0
    segmentation: bool = False
    channel: int | None = None
    without: frozenset[str] = frozenset()
    smooth_probes: bool = False
    smoothings: bool = True
    export: tuple[str, ...] = ("--weights", "none", "--seed", "0", "--warm-batchnorm", "4")


CASES = (
    Case("torchvision:resnet18", ("layer2", "layer4"), (96, 112), smooth_probes=True),
    Case("torchvision:resnet50", ("layer3", "layer4"), (96, 80)),
    Case("torchvision:vgg16", ("features.30",), (96, 64)),
    Case("torchvision:densenet121", ("features.denseblock3", "features.denseblock4"), (96, 96)),
    Case(
        "torchvision:mobilenet_v3_small", ("features.8", "features.12"), (128, 96), without=frozenset({"shapleycam"})
    ),  # hardsigmoid has no second derivative
    Case("torchvision:efficientnet_b0", ("features.4", "features.8"), (96, 96)),
    Case("torchvision:convnext_tiny", ("features.5", "features.7"), (96, 96), without=frozenset(PROBING)),
    Case(
        "timm:swin_tiny_patch4_window7_224",
        ("layers.2", "layers.3.blocks.1.norm1"),
        (224, 224),
        layout="nhwc",
        without=frozenset({*PROBING, *FOR_MAPS_ONLY}),
    ),
    Case(
        "timm:deit_tiny_patch16_224",
        ("blocks.6.norm1", "blocks.11.norm1"),
        (224, 224),
        "tokens",
        (14, 14),
        1,
        without=FOR_MAPS_ONLY,
    ),
    Case(
        "torchvision:deeplabv3_resnet50",
        ("backbone.layer1", "backbone.layer4"),
        (96, 128),
        segmentation=True,
        channel=15,
        without=frozenset(PROBING),
    ),
)
# What the first ones do not show: other blocks, at their last layer, by all methods but those of a pass a channel.
MORE = tuple(
    Case(model, (layer,), (96, 96), without=frozenset(PROBING | set(without)), smoothings=False)
    for model, layer, *without in (
        # The reference's KPCA-CAM in fp32 is 2e-3 from itself in fp64 here.
        ("torchvision:alexnet", "features.11", "kpcacam"),
        ("torchvision:squeezenet1_1", "features.12"),
        # The reference's FullGrad expects gradients of the auxiliary heads, which only training has.
        ("torchvision:googlenet", "inception5b", "fullgrad"),
        ("torchvision:inception_v3", "Mixed_7c", "fullgrad"),
        ("torchvision:resnext50_32x4d", "layer4"),
        ("torchvision:wide_resnet50_2", "layer4"),
        ("torchvision:regnet_y_400mf", "trunk_output.block4"),
        ("torchvision:shufflenet_v2_x1_0", "conv5"),
        # The reference's FullGrad leaves out norms of a class derived from `BatchNorm2d`, as timm's are.
        ("timm:repvgg_a0", "stages.3", "fullgrad"),
        ("torchvision:mobilenet_v2", "features.18"),
        # Two of its kernel principal components are almost equal: the reference in fp32 has another one than in fp64.
        ("torchvision:efficientnet_v2_s", "features.7", "kpcacam"),
        ("timm:convnextv2_atto", "stages.3"),
        ("timm:mobilenetv4_conv_small", "blocks.4", "fullgrad"),
        ("timm:resnetv2_50", "stages.3", "fullgrad"),
    )
)
SEGMENTING = tuple(
    Case(model, (layer,), (96, 128), segmentation=True, channel=15, without=frozenset({*PROBING, *without}), smoothings=False)
    for model, layer, *without in (
        ("torchvision:fcn_resnet50", "backbone.layer4"),
        # hardsigmoid has no second derivative
        ("torchvision:lraspp_mobilenet_v3_large", "backbone.16", "shapleycam"),
    )
)
# Enough for every code path, and quick: what continuous integration runs.
SUBSET = ("torchvision:resnet18", "torchvision:convnext_tiny", "timm:swin_tiny_patch4_window7_224", "timm:deit_tiny_patch16_224")


@dataclasses.dataclass
class Row:
    """One line of the table."""

    model: str
    method: str
    smoothing: str
    allowed: float
    largest: float
    mean: float
    peer: str = "pytorch_grad_cam"
    default: float | None = None  # distance of the default to fp64
    single: float | None = None  # distance of the reference's fp32 to fp64

    def passed(self) -> bool:
        is_ill_conditioned = self.method in ILL_CONDITIONED or (self.model, self.method) in ILL_CONDITIONED_PAIRS
        fits = self.default is None or is_ill_conditioned or self.default <= 3 * self.single + 1e-4
        return self.largest <= self.allowed and fits  # a NaN fails


def camflow_maps(
    binary: Path, archive: Path, case: Case, layers, pixels, mask, channel, methods, flags
) -> dict[tuple[str, str], np.ndarray]:
    """(method, layer) -> heatmap."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        np.save(folder / "input.npy", pixels.numpy())
        command = [binary, "explain", folder / "input.npy", "--model", archive, "--class", channel, "--layers", ",".join(layers)]
        command += ["--method", ",".join(methods), "--out", folder / "maps", "--device", "cpu", "--format", "json", *flags]
        if case.segmentation:
            np.save(folder / "mask.npy", mask * np.uint8(channel))
            command += ["--mask", folder / "mask.npy"]
        done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        maps = {}
        for line in done.stdout.splitlines():
            event = json.loads(line)
            if event.get("event") == "heatmap":
                maps[event["method"], event["layer"]] = np.load(next(file for file in event["files"] if file.endswith(".npy")))
        return maps


def allowed(method: str, eigen: bool) -> float:
    if method in PROJECTING or (eigen and method not in UNSMOOTHED):
        return 1e-3
    return 1e-4 if method in PROBING else 1e-5


def exported(case: Case, models: Path) -> Path:
    """The model's archive in that folder, made if it is not there: anew where the exporter, the options or torch are others."""
    digest = hashlib.sha256(repr((case.model, case.export, torch.__version__)).encode())
    for file in sorted((Path(export_model.__file__).parents[1] / "python" / "camflow" / "export").rglob("*.py")):
        digest.update(file.read_bytes())
    archive = models / f"{case.model.rpartition('/')[2].replace(':', '-')}-{digest.hexdigest()[:12]}.pt2"
    if not archive.exists():
        command = [sys.executable, Path(export_model.__file__), case.model, "--out", archive, *case.export]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
    return archive


def network(model: str, archive: Path) -> torch.nn.Module:
    """The network with the archive's weights, in evaluation."""
    module = export_model.load_model(model, "none").module
    module.load_state_dict(torch.export.load(archive).state_dict)
    return module.eval()


def anew(compute: Callable[[], np.ndarray], *_: object) -> np.ndarray:
    return compute()


def compare(binary: Path, case: Case, archive: Path, kept: Callable[..., np.ndarray] = anew) -> list[Row]:
    """The rows of one model. `kept(compute, *key)` gives what `compute` gives, which depends on the key."""
    model = Logits(network(case.model, archive)).eval().requires_grad_(True)  # as pytorch_grad_cam finds a model
    double = copy.deepcopy(model).double()
    # Not the archive's name: it changes with the exporter, and the network does not.
    asked = (case.size, case.layout, case.grid, case.prefix, case.segmentation, case.channel)
    which = (case.model, asked, identity(model))
    pixels = picture(*case.size, seed=sum(map(ord, case.model)))
    with torch.no_grad():
        logits = model(pixels)[0]
    mask = np.zeros(case.size, np.uint8)
    mask[case.size[0] // 4 : -8, 8 : -case.size[1] // 3] = 1
    channel = int(logits.argmax()) if case.channel is None else case.channel

    def wanted(model, dtype, layer, method, eigen, aug) -> np.ndarray:
        return wanted_map(case, model, pixels.to(dtype), mask, channel, layer, method, eigen, aug)

    methods = [m for m in METHODS if m not in case.without and not (case.segmentation and m in FOR_CLASSIFIERS_ONLY)]
    methods = [m for m in methods if m not in JOINING or len(case.layers) > 1]
    smoothed = [m for m in methods if m not in UNSMOOTHED | JOINING and (case.smooth_probes or m not in PROBING)]
    sweeps = [("none", methods, False, False), ("eigen", smoothed, True, False)]
    sweeps.append(("aug", [m for m in ("gradcam", "layercam") if not case.segmentation], False, True))
    sweeps.append(("aug+eigen", [m for m in ("gradcam",) if not case.segmentation], True, True))
    sweeps = sweeps if case.smoothings else sweeps[:1]
    rows = []
    for smoothing, methods, eigen, aug in sweeps:
        if not methods:
            continue
        flags = ["--eigen-smooth"] * eigen + ["--aug-smooth"] * aug
        exact, folded = {}, {}
        gradients = [m for m in methods if m not in PROBING]
        for group, layers in ((gradients, case.layers), ([m for m in methods if m in PROBING], case.layers[-1:])):
            if group:
                exact |= camflow_maps(binary, archive, case, layers, pixels, mask, channel, group, [*flags, "--exact"])
        if smoothing == "none":
            folded = camflow_maps(binary, archive, case, case.layers, pixels, mask, channel, gradients, flags)
        for method in methods:
            # The gradient-free methods cost a pass a channel: one layer.
            layers = case.layers[-1:] if method in PROBING else case.layers
            layers = ("all",) if method == "fullgrad" else ("fused",) if method in JOINING else layers
            row = Row(case.model, method, smoothing, allowed(method, eigen), 0.0, 0.0)
            means = []
            for layer in layers:
                how = (layer, method, eigen, aug)
                single = kept(partial(wanted, model, torch.float32, *how), *which, "fp32", *how)
                difference = np.abs(exact[method, layer] - single)
                row.largest = max(row.largest, float(difference.max())) if not np.isnan(difference).any() else float("nan")
                means.append(float(difference.mean()))
                # The gradient-free methods have no fp64 reference: a pass a channel in fp64 takes minutes.
                if smoothing == "none" and method not in PROBING:
                    truth = kept(partial(wanted, double, torch.float64, *how), *which, "fp64", *how)
                    row.default = max(row.default or 0.0, float(np.abs(folded[method, layer] - truth).max()))
                    row.single = max(row.single or 0.0, float(np.abs(single - truth).max()))
            row.mean = max(means)
            # Where the reference's own rounding is larger than that (xgradcam divides by sums that cancel), no nearer can be had.
            row.allowed = max(row.allowed, row.single or 0.0)
            rows.append(row)
    return rows


def compare_attention(binary: Path, model: str, archive: Path) -> list[Row]:
    """The rows of methods of attention for one transformer, of all its blocks and of the first half of them."""
    module = network(model, archive).requires_grad_(True)
    blocks, prefix, grid, read = ATTENTION[model]
    single = Tower(module, blocks, prefix, grid, read)
    double = dataclasses.replace(single, module=copy.deepcopy(module).double())
    case = Case(model, (), (224, 224))
    pixels = picture(*case.size, seed=sum(map(ord, model)))
    with torch.no_grad():
        channel = int(module(pixels)[0].argmax())
    depth = len(list(module.get_submodule(blocks).children()))
    layers = {str(depth // 2): depth // 2, str(depth): depth}
    reads_patches = read is not None and read[0] >= prefix
    methods = [method for method in attention_reference.METHODS if not (reads_patches and method == "grad-eclip")]
    flags = ["--size", "layer"]
    exact = camflow_maps(binary, archive, case, layers, pixels, None, channel, methods, [*flags, "--exact"])
    default = camflow_maps(binary, archive, case, layers, pixels, None, channel, methods, flags)
    rows = []
    for method in methods:
        row = Row(model, method, "none", 1e-4, 0.0, 0.0, "its paper", 0.0, 0.0)
        for layer, count in layers.items():
            wanted, truth = (
                attention_reference.heatmap(attention_reference.METHODS[method](tower, image, channel, count))
                for tower, image in ((single, pixels), (double, pixels.double()))
            )
            difference = np.abs(exact[method, layer] - wanted)
            row.largest = max(row.largest, float(difference.max())) if not np.isnan(difference).any() else float("nan")
            row.mean = max(row.mean, float(difference.mean()))
            row.default = max(row.default, float(np.abs(default[method, layer] - truth).max()))
            row.single = max(row.single, float(np.abs(wanted - truth).max()))
        row.allowed = max(row.allowed, 3 * row.single)
        rows.append(row)
    return rows


def compare_written(binary: Path, case: Case, archive: Path) -> list[Row]:
    """The rows of methods at layers that the reference does not have, at the last layer; `sscam` and `iscam`, which take many passes a
    channel, where that layer has few."""
    module = network(case.model, archive).requires_grad_(True)
    pixels, layer = picture(*case.size, seed=sum(map(ord, case.model))), case.layers[-1]
    with torch.no_grad():
        channel = int(module(pixels)[0].argmax())
    double = copy.deepcopy(module).double()
    methods = [method for method in cam_reference.METHODS if method not in {"sscam", "iscam"}]
    flags = ["--size", "layer"]
    exact = camflow_maps(binary, archive, case, (layer,), pixels, None, channel, methods, [*flags, "--exact"])
    default = camflow_maps(binary, archive, case, (layer,), pixels, None, channel, methods, flags)
    rows = []
    for method in methods:
        compute = cam_reference.METHODS[method]
        wanted, truth = (
            cam_reference.heatmap(compute(network, layer, image, channel, "input.0"))
            for network, image in ((module, pixels), (double, pixels.double()))
        )
        difference = np.abs(exact[method, layer] - wanted)
        largest = float(difference.max()) if not np.isnan(difference).any() else float("nan")
        row = Row(case.model, method, "none", 1e-4, largest, float(difference.mean()), "its paper")
        row.default, row.single = float(np.abs(default[method, layer] - truth).max()), float(np.abs(wanted - truth).max())
        row.allowed = max(row.allowed, 3 * row.single)
        rows.append(row)
    return rows


def beside(peer: str, model: str, method: str, found: np.ndarray, wanted: np.ndarray) -> Row:
    """The row of two maps, of which 1e-4 is allowed. A map that is nearly the same everywhere would agree with many: it fails."""
    difference = np.abs(found - wanted)
    largest = float(difference.max()) if wanted.std() > 0.05 else float("nan")
    return Row(model, method, "none", 1e-4, largest, float(difference.mean()), peer)


def describe(row: Row) -> str:
    text = f"{row.model} {row.method} {row.smoothing} beside {row.peer}: max {row.largest:.1e}, mean {row.mean:.1e}"
    text += f" (allowed {row.allowed:.0e})"
    return text if row.default is None else f"{text}; from fp64: default {row.default:.1e}, fp32 {row.single:.1e}"


def median_ratio(rows: list[Row]) -> float:
    """Of the default's distance to fp64 and fp32's own; 0 where there is nothing to compare."""
    ratios = [row.default / max(row.single, 1e-6) for row in rows if row.default is not None]
    return float(np.median(ratios)) if ratios else 0.0
