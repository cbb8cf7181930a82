"""camflow's heatmaps are pytorch_grad_cam's.

`--exact` within 1e-5 of the reference on the same tensor. The default folds batch norms and keeps images channels-last,
which moves sums in the last bit and flips a few ReLUs, as fp32 itself does against fp64. So it is judged by its distance to the fp64 heatmaps of an input (the
largest difference at any layer): at most 1.5 times eager fp32's own in the median over inputs, and 3 times (plus 1e-4) for
each.

Such ratios mean something only where fp32 itself flips ReLUs: on the smallest images it sometimes flips none, by luck, and is then
a thousand times nearer than with any other order of summation.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reference
from identity import identity

# What the reference's heatmaps are made by.
CODE = (Path(__file__), Path(reference.__file__))
PERSON = 15
# height, width, batch: other shapes than the export's example; odd ones; both orientations.
CASES = [(160, 192, 1), (129, 103, 1), (96, 128, 3)]
EXPORT = ("--weights", "none", "--seed", "0", "--warm-batchnorm", "4")


def inputs(height: int, width: int, batch: int) -> tuple[torch.Tensor, np.ndarray]:
    """Smooth noise (real images are smooth) and a mask with a hole per image."""
    generator = torch.Generator().manual_seed(height * 1000 + width + batch)
    coarse = torch.randn(batch, 3, height // 8, width // 8, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    pixels = (pixels + 0.1 * torch.randn(batch, 3, height, width, generator=generator)).contiguous()
    masks = np.zeros((batch, height, width), np.uint8)
    for index in range(batch):
        masks[index, height // 4 : -height // 5, width // (3 + index) : -width // 6] = 1
        masks[index, height // 2 : height // 2 + 9, width // 2 : width // 2 + 7] = 0
    return pixels, masks


@pytest.fixture(scope="module")
def model_and_archive(export):
    """The eager model with the archive's own weights, read back from the archive by torch."""
    import torchvision

    path = export("torchvision:deeplabv3_resnet50", *EXPORT)
    program = torch.export.load(path)
    model = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, aux_loss=False).eval()
    model.load_state_dict(program.state_dict)
    return model, path


@pytest.fixture(scope="module")
def cases(model_and_archive, kept):
    """Archive, pixels, masks, the reference's maps in fp32 and in fp64, for each case."""
    model, path = model_and_archive
    double = reference.double(model)
    # Not the archive's name: it changes with the exporter, and the network does not.
    which = identity(model)
    found = []
    for shape in CASES:
        pixels, masks = inputs(*shape)
        cam = partial(reference.grad_cam, masks=masks, category=PERSON)
        single = kept(partial(cam, model, pixels), which, shape, "fp32", code=CODE)
        exact = kept(partial(cam, double, pixels.double()), which, shape, "fp64", code=CODE)
        found.append((path, pixels, masks, single, exact))
    return found


def explain(camflow, path, pixels, masks, folder, *flags) -> dict[str, np.ndarray]:
    np.save(folder / "input.npy", pixels.numpy())
    np.save(folder / "mask.npy", masks * PERSON)
    camflow(
        *("explain", folder / "input.npy", "--mask", folder / "mask.npy", "--class", PERSON, "--layers", "1-4"),
        *("--model", path, "--out", folder / "maps", "--device", "cpu", *flags),
    )
    count = len(pixels)
    return {
        f"layer{k}": np.stack([np.load(folder / "maps" / f"input.{n}.person.gradcam.layer_{k}.npy") for n in range(count)])
        for k in range(1, 5)
    }


def test_exact_equals_pytorch_grad_cam(cases, camflow, tmp_path):
    for path, pixels, masks, single, _ in cases:
        maps = explain(camflow, path, pixels, masks, tmp_path, "--exact")
        for layer, wanted in single.items():
            difference = np.abs(maps[layer] - wanted).max()
            print(f"{tuple(pixels.shape)} {layer}: exact differs by {difference:.1e}")
            assert maps[layer].dtype == np.float32 and maps[layer].shape == wanted.shape
            assert wanted.max() > 0.9, "the reference itself is empty"
            assert difference <= 1e-5, f"{tuple(pixels.shape)} {layer}: {difference}"
        layers = list(maps.values())
        assert all(np.abs(a - b).max() > 0.1 for i, a in enumerate(layers) for b in layers[i + 1 :]), "one map for two layers"


def test_default_is_as_near_to_fp64_as_fp32_is(cases, camflow, tmp_path):
    ratios = []
    for path, pixels, masks, single, exact in cases:
        maps = explain(camflow, path, pixels, masks, tmp_path)
        for index in range(len(pixels)):

            def distance(found, index=index, exact=exact):
                return max(np.abs(found[layer][index] - truth[index]).max() for layer, truth in exact.items())

            own, ours = distance(single), distance(maps)
            print(f"{tuple(pixels.shape)} [{index}]: from fp64: fp32 {own:.1e}, camflow {ours:.1e}")
            assert ours <= 3 * own + 1e-4, f"{tuple(pixels.shape)} [{index}]: {ours} against {own}"
            ratios.append(ours / max(own, 1e-6))
    print(f"median ratio {np.median(ratios):.2f}")
    assert np.median(ratios) <= 1.5
