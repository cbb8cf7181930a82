"""All classes of a classifier at once: the numbers of one class alone, and no more passes than for one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import torch

LAB = Path(__file__).resolve().parents[2] / "scripts" / "lab"
sys.path.insert(0, str(LAB))
import affine_models
import parity

MODELS = Path(__file__).with_name("affine_models.py")
SIZE = (affine_models.SIDE, affine_models.SIDE)
METHODS = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam-elementwise", "shapleycam", "finercam"]
PRINCIPAL = ["eigengradcam", "segeigencam"]
WITHOUT_CLASS = ["eigencam", "randomcam", "fem"]


def explained(camflow, folder: Path, archive: Path, pixels, *flags) -> dict[tuple[str, str], np.ndarray]:
    """(method, class) -> heatmap f32 [H, W]."""
    folder.mkdir()
    np.save(folder / "input.npy", pixels.numpy())
    done = camflow(
        "explain", folder / "input.npy", "--model", archive, "--layers", "features", "--out", folder / "maps", "--format", "json", *flags
    )
    found = {}
    for event in done.events:
        if event["event"] == "heatmap":
            found[event["method"], event["class"]] = np.load(next(file for file in event["files"] if file.endswith(".npy")))
    return found


@pytest.fixture(scope="module")
def reference():
    """The map of pytorch_grad_cam of a class of one of the models."""

    def run(name: str, archive: Path, pixels, method: str, channel: int) -> np.ndarray:
        model = getattr(affine_models, name)()
        model.load_state_dict(torch.export.load(archive).state_dict)
        model = parity.Logits(model).eval().requires_grad_(True)
        case = parity.Case(name, ("features",), SIZE)
        return parity.reference_map(case, model, [model.model.features], pixels, None, channel, method, eigen=False, aug=False)

    return run


@pytest.mark.parametrize("name", ["plain", "signed", "flat", "beside", "gated"])
def test_all_classes_have_the_maps_of_each_alone(camflow, export, reference, tmp_path, name):
    archive = export(f"{MODELS}:{name}", inputs=(MODELS,))
    pixels = parity.picture(*SIZE, seed=5)
    methods = ("--method", ",".join(METHODS + PRINCIPAL + WITHOUT_CLASS))
    together = explained(camflow, tmp_path / "together", archive, pixels, "--class", "all", *methods)
    assert len(together) == affine_models.CLASSES * len(METHODS + PRINCIPAL + WITHOUT_CLASS)
    # By a pass back for each class.
    exact = explained(camflow, tmp_path / "exact", archive, pixels, "--class", "all", *methods, "--exact")
    alone = explained(camflow, tmp_path / "alone", archive, pixels, "--class", "class 4", *methods)
    for (method, of_class), found in together.items():
        bound = 1e-4 if method in PRINCIPAL or method in parity.ILL_CONDITIONED else 1e-5 if method == "finercam" else 2e-6
        assert np.abs(found - exact[method, of_class]).max() <= bound, (method, of_class)
        if of_class == "class 4":
            assert np.abs(found - alone[method, of_class]).max() <= 1e-6, method
    for method in METHODS[:-1]:
        for channel in range(affine_models.CLASSES):
            wanted = reference(name, archive, pixels, method, channel)
            assert np.abs(together[method, f"class {channel}"] - wanted).max() <= 1e-5, (method, channel)
    maps = {together["gradcam", f"class {channel}"].tobytes() for channel in range(affine_models.CLASSES)}
    assert len(maps) >= 4, "classes have maps of their own, where any speaks for them"
    for method in WITHOUT_CLASS:
        assert all((together[method, f"class {channel}"] == together[method, "class 0"]).all() for channel in range(1, 6))


@pytest.mark.parametrize("name", ["plain", "flat"])
def test_principal_components_of_all_classes(camflow, export, tmp_path, name):
    archive = export(f"{MODELS}:{name}", inputs=(MODELS,))
    flags = ("--class", "all", "--method", "gradcam,layercam,shapleycam", "--eigen-smooth")
    found = explained(camflow, tmp_path / "found", archive, parity.picture(*SIZE, seed=6), *flags)
    wanted = explained(camflow, tmp_path / "wanted", archive, parity.picture(*SIZE, seed=6), *flags, "--exact")
    assert len(found) == 3 * affine_models.CLASSES
    for which, heatmap in found.items():
        assert np.abs(heatmap - wanted[which]).max() <= 1e-4, which


@pytest.fixture(scope="module")
def counts(binary):
    """What explaining one image of so many classes takes, after another one."""

    def run(model, layers, methods, num_classes, *, batch=1, size=64) -> dict:
        program = binary.parent / "examples" / "device_counts"
        assert program.is_file(), f"no {program}: run `cargo build --examples`"
        command = [program, model, size, size, layers, methods, f"classes:{num_classes}", batch]
        done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=600)
        found = json.loads(done.stdout)
        assert found["num_heatmaps"] == batch * num_classes * len(methods.split(",")) and found["distance"] <= 1e-6, found
        return found["all"]

    return run


def test_a_thousand_classes_take_the_passes_of_one(counts, export):
    model = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    methods = "gradcam,layercam,eigencam"
    one, all_classes = counts(model, "layer4", methods, 1), counts(model, "layer4", methods, 1000)
    for found in (one, all_classes):
        assert (found["whole"], found["resumed"], found["backward"]) == (1, 0, 0), found
    # What is left of each class is drawing, and views of it.
    assert all_classes["calls"] < 100 * 1000, all_classes
    # Behind an earlier layer each class has a pass back, through what is behind it alone.
    found = counts(model, "layer3", "gradcam", 5)
    assert (found["whole"], found["backward"]) == (1, 5), found


def test_images_of_a_batch_share_gradients(counts, export):
    model = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    found = counts(model, "layer4", "gradcam++", 3, batch=4)
    assert (found["whole"], found["resumed"], found["backward"]) == (4, 0, 0), found


