"""Methods of attention give what their papers say, on each family of vision transformers, for images alone and in batches."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import attention_models as models
import attention_reference as reference
from attention_reference import Tower

CHANNEL = 3
PATCHES = (4, 5)
SQUARE = (4, 4)


def patches(prefix: int, grid: tuple[int, int]) -> list[int]:
    return list(range(prefix, prefix + grid[0] * grid[1]))


# Where the blocks are, how many tokens come before the patches, and which of all the output reads.
TOWERS = {
    "vit": ("blocks", 1, PATCHES, [0]),
    "vit_mean": ("blocks", 0, PATCHES, patches(0, PATCHES)),
    "vit_registers": ("blocks", 5, PATCHES, [0]),
    "siglip": ("blocks", 0, PATCHES, None),
    "deit": ("blocks", 2, PATCHES, [0, 1]),
    "beit": ("blocks", 1, PATCHES, patches(1, PATCHES)),
    "eva": ("blocks", 5, PATCHES, [0]),
    "torchvision_vit": ("encoder.layers", 1, SQUARE, [0]),
    "vit_eager": ("model.vit.layers", 1, PATCHES, [0]),
    "dinov2_registers": ("model.dinov2_with_registers.encoder.layer", 5, SQUARE, [0]),
    "beit_eager": ("model.beit.layers", 1, SQUARE, patches(1, SQUARE)),
}
LAYERS = {2: "2", 3: "3"}  # blocks: layer


@pytest.fixture(scope="module", autouse=True)
def attention_by_the_formula():
    torch.backends.mha.set_fastpath_enabled(False)


def tower(name: str) -> Tower:
    return Tower(getattr(models, name)(), *TOWERS[name])


def images(model: torch.nn.Module, count: int) -> torch.Tensor:
    size = model.camflow_metadata["example"]
    coarse = torch.randn(count, 3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(7))
    return 2 * torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)


def methods_of(name: str) -> list[str]:
    """Grad-ECLIP wants a class token, or a query in its place."""
    _, prefix, _, read = TOWERS[name]
    return [method for method in reference.METHODS if method != "grad-eclip" or read is None or read[0] < prefix]


def maps(camflow, archive, pixels, folder, methods, *flags, layers="2,3", channel: object = CHANNEL):
    """The heatmap f32 [H', W'] by method, layer and number of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "input.npy", pixels.numpy())
    arguments = ("--class", channel, "--layers", layers, "--method", ",".join(methods), "--size", "layer")
    done = camflow(
        *("explain", folder / "input.npy", "--model", archive, *arguments, "--out", folder / "maps"),
        *("--device", "cpu", "--format", "json", *flags),
    )
    events = [event for event in done.events if event["event"] == "heatmap"]
    number = lambda event: int(event["sample"].rpartition(".")[2]) if len(pixels) > 1 else 0  # noqa: E731
    return {(event["method"], event["layer"], number(event)): np.load(event["files"][0]) for event in events}


@pytest.mark.parametrize("name", TOWERS)
def test_each_gives_what_its_paper_says(camflow, export, tmp_path, name):
    archive = export(f"{models.__file__}:{name}", inputs=(Path(models.__file__),))
    seen, methods = tower(name), methods_of(name)
    pixels = images(seen.module, 3)
    found = maps(camflow, archive, pixels, tmp_path / "together", methods, "--exact")
    assert len(found) == 3 * 2 * len(methods)
    for (method, layer, number), heatmap in found.items():
        count = next(count for count, known in LAYERS.items() if known == layer)
        saliency = reference.METHODS[method](seen, pixels[number : number + 1], CHANNEL, count)
        wanted = reference.heatmap(saliency)
        assert heatmap.shape == seen.grid and wanted.max() > 0.99 > 0.2 > wanted.min(), (method, layer)
        assert np.abs(heatmap - wanted).max() <= 1e-4, (method, layer, number, np.abs(heatmap - wanted).max())
    # An image alone is what it is among others.
    alone = maps(camflow, archive, pixels[1:2], tmp_path / "alone", methods, "--exact")
    for (method, layer, _), heatmap in alone.items():
        assert np.abs(heatmap - found[method, layer, 1]).max() <= 1e-5, (method, layer)
