"""Layers whose tokens are in windows: their order is the network's own, and their heatmaps lie over the image."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import transformers

import torch
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import grad_cam_reference
import parity
from camflow import export as exporter
from camflow.export.evidence import telling
from camflow.export.layers import find_layers, observe
from camflow.export.windows import windowed

STEPS = [{"op": "normalize", "mean": [0.0] * 3, "std": [1.0] * 3}]
METHODS = ["gradcam", "gradcam++", "layercam", "hirescam", "eigencam"]


def of_swin(rows: int, columns: int, side: int, shift: int) -> np.ndarray:
    """Which token lies at each place of the image (arXiv 2103.14030): padded to whole windows, rolled, cut into windows."""
    padded = [-(-length // side) * side for length in (rows, columns)]
    places = np.full(padded, -1)
    places[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    places = np.roll(places, (-shift, -shift), (0, 1))
    windows = places.reshape(padded[0] // side, side, padded[1] // side, side).swapaxes(1, 2).reshape(-1)
    order = np.empty(rows * columns, int)
    order[windows[windows >= 0]] = np.flatnonzero(windows >= 0)
    return order


def swin():
    """Two stages whose windows do not fill their grids, 12 x 12 and 6 x 6."""
    torch.manual_seed(3)
    sizes = {"image_size": 48, "patch_size": 4, "embed_dim": 16, "window_size": 5}
    return transformers.SwinForImageClassification(transformers.SwinConfig(depths=[2, 2], num_heads=[2, 4], **sizes)).eval()


class Windows(nn.Module):
    """`second` is what `first` is, row by row; `first` is in windows of 2 x 4."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.rows, self.first, self.second = nn.LayerNorm(8), nn.Identity(), nn.Identity()
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.rows(self.patches(x).flatten(2).transpose(1, 2))
        x = x.reshape(-1, 3, 2, 2, 4, 8).transpose(2, 3).reshape(-1, 8, 8)
        x = self.first(x).reshape(-1, 3, 2, 2, 4, 8).transpose(2, 3).reshape(-1, 48, 8)
        return self.head(torch.relu(self.mix(self.second(x))).mean(1))


def found_in(module: nn.Module, size: tuple[int, int]):
    example = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    shapes, _, _ = observe(module, example)
    layers, tokens = find_layers(module, shapes, example.shape)
    told = telling(module, example, layers, tokens)
    return windowed(module, example.shape, shapes, [layer for layer in layers if layer["path"] in told], tokens)


def test_the_order_of_shifted_and_padded_windows_is_found():
    layers, orders = found_in(swin(), (48, 48))
    by_path = {layer["path"]: layer for layer in layers}
    assert len(orders) == 4
    for stage, length in (0, 12), (1, 6):
        for block, shift in (0, 0), (1, 2):
            layer = by_path[f"swin.encoder.layers.{stage}.blocks.{block}.attention.o_proj"]
            assert layer["tokens"]["grid"] == [length, length]
            assert layer["windows"]["per_image"] == (-(-length // 5)) ** 2
            assert orders[layer["windows"]["order"]] == of_swin(length, length, 5, shift).tolist()


@pytest.mark.parametrize(
    ("name", "path", "side"),
    [("maxvit_rmlp_pico_rw_256", "stages.0.blocks.0.attn_grid.attn.qkv", 64), ("hiera_tiny_224", "blocks.0.norm1", 56)],
)
def test_other_orders_are_found(name, path, side):
    """A grid of distant places, and units within units: the place where the image changes is the one that changes."""
    torch.manual_seed(0)
    module = timm.create_model(name).eval()
    size = module.default_cfg["input_size"][1:]
    layers, orders = found_in(module, size)
    layer = next(layer for layer in layers if layer["path"] == path)
    order = orders[layer["windows"]["order"]]
    assert layer["tokens"]["grid"] == [side, side] and order != sorted(order) and sorted(set(order)) == [*range(side * side)]
    taken: list[torch.Tensor] = []
    handle = module.get_submodule(path).register_forward_pre_hook(lambda mod, args: taken.append(args[0]))
    image = torch.zeros(2, 1, 3, *size)
    image[0, ..., size[0] // 4 : size[0] // 4 + 8, size[1] * 3 // 4 : size[1] * 3 // 4 + 8] = 2.0
    with torch.no_grad():
        for pixels in image:
            module(pixels)
    handle.remove()
    gap = (taken[0] - taken[1]).reshape(side * side, -1).abs().sum(1)[order].reshape(side, side)
    row, column = divmod(int(gap.argmax()), side)
    assert abs((row + 0.5) / side - 0.27) < 0.05 and abs((column + 0.5) / side - 0.77) < 0.05


def test_windows_are_explained_as_by_pytorch_grad_cam(binary, tmp_path):
    archive = tmp_path / "swin.pt2"
    module = swin()
    exporter.export(exporter.load_model(module, preprocess=STEPS), archive, size=(48, 48))
    pixels = parity.picture(48, 48, seed=5)

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = module

        def forward(self, x):
            return self.model(x).logits

    for path, length, shift in (
        ("swin.encoder.layers.0.blocks.1.attention.o_proj", 12, 2),
        ("swin.encoder.layers.1.blocks.0.attention.o_proj", 6, 0),
    ):
        order = torch.from_numpy(of_swin(length, length, 5, shift))
        case = parity.Case("swin", (path,), (48, 48))
        ours = parity.camflow_maps(
            binary, archive, case, case.layers, pixels, np.ones((48, 48), np.uint8), 1, METHODS, ["--exact"]
        )

        def put_together(tensor, order=order, length=length):
            return tensor.reshape(1, -1, tensor.shape[-1])[:, order].reshape(1, length, length, -1).permute(0, 3, 1, 2)

        for method in METHODS:
            theirs = reference_map(Logits().requires_grad_(True), module.get_submodule(path), put_together, pixels, method)
            tolerance = parity.allowed(method, eigen=False)
            assert theirs.any() and np.abs(ours[method, path] - theirs).max() <= tolerance, (path, method)


def reference_map(model, layer, reshape, pixels, method):
    with (
        grad_cam_reference.documented_sign(),
        parity.METHODS[method](model=model, target_layers=[layer], reshape_transform=reshape) as cam,
    ):
        return cam(pixels.clone(), targets=[grad_cam_reference.ClassifierOutputTarget(1)])[0]


def test_windows_are_explained_as_the_same_tokens_row_by_row(camflow, tmp_path):
    archive = tmp_path / "windows.pt2"
    torch.manual_seed(1)
    meta = exporter.export(exporter.load_model(Windows().eval(), preprocess=STEPS), archive, size=(24, 32))
    layouts = {layer["path"]: layer["layout"] for layer in meta["layers"]}
    assert (layouts["first"], layouts["second"]) == ("windows", "tokens")
    for seed in range(3):
        np.save(tmp_path / f"{seed}.npy", parity.picture(24, 32, seed).numpy())
    maps = {}
    done = camflow(
        *("explain", *(tmp_path / f"{seed}.npy" for seed in range(3)), "--model", archive, "--class", "1", "--exact"),
        *("--layers", "first,second", "--method", "gradcam,layercam,ablationcam,scorecam,eigencam,reciprocam"),
        *("--out", tmp_path / "maps", "--format", "json", "--device", "cpu"),
    )
    for event in done.events:
        if event["event"] == "heatmap":
            array = np.load(next(file for file in event["files"] if file.endswith(".npy")))
            maps.setdefault(event["layer"], {})[event["method"], event["input"]] = array
    assert len(maps["first"]) == 18
    assert all(any(array.any() for (method, _), array in maps["first"].items() if method == one) for one, _ in maps["first"])
    for key, array in maps["first"].items():
        assert np.abs(array - maps["second"][key]).max() <= 1e-5, key
    inspected = json.loads(camflow("inspect", archive, "--format", "json").stdout)
    assert {layer["path"]: layer["layout"] for layer in inspected["layers"]}["first"] == "windows"
