"""All classes of a classifier at once: the numbers of one class alone, and no more passes than for one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

import torch

LAB = Path(__file__).resolve().parents[2] / "scripts" / "lab"
sys.path.insert(0, str(LAB))
import affine_models
import grad_cam_reference
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
        "explain",
        folder / "input.npy",
        "--model",
        archive,
        "--layers",
        "features",
        "--out",
        folder / "maps",
        "--format",
        "json",
        *flags,
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
        return grad_cam_reference.reference_map(
            case, model, [model.model.features], pixels, None, channel, method, eigen=False, aug=False
        )

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
    methods = "gradcam,layercam,finercam,eigencam"
    one, all_classes = counts(model, "layer4", methods, 1), counts(model, "layer4", methods, 1000)
    for found in (one, all_classes):
        assert (found["whole"], found["resumed"]) == (1, 0), found
    # Of Finer-CAM, through the comparison of logits alone.
    assert (one["backward"], all_classes["backward"]) == (1, 1), (one, all_classes)
    # What is left of each class is drawing, and views of it.
    assert all_classes["calls"] < 100 * 1000, all_classes
    # Behind an earlier layer each class has a pass back, through what is behind it alone.
    found = counts(model, "layer3", "gradcam", 5)
    assert (found["whole"], found["backward"]) == (1, 5), found


def test_images_of_a_batch_share_gradients(counts, export):
    model = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    found = counts(model, "layer4", "gradcam++", 3, batch=4)
    assert (found["whole"], found["resumed"], found["backward"]) == (4, 0, 0), found


def test_what_cannot_change_a_map_is_not_asked_for(camflow, counts, export, reference, tmp_path):
    """Five of twelve channels are zero whatever the image, and maybe others for this one."""
    model = export(f"{MODELS}:dead", inputs=(MODELS,))
    network = affine_models.dead()
    network.load_state_dict(torch.export.load(model).state_dict)
    levels = torch.arange(3 * SIZE[0] * SIZE[1]) * 31 % 256  # of the first image of the example
    with torch.no_grad():
        features = network.features(network.stem((levels / 255).view(1, *SIZE, 3).permute(0, 3, 1, 2)))
    num_active = int((features != 0).any(0).flatten(1).any(1).sum())
    assert 2 <= num_active <= 7
    found = counts(model, "features", "scorecam", 3, size=affine_models.SIDE)
    assert found["whole"] == 1 + num_active + 1, found
    found = counts(model, "features", "ablationcam", 3, size=affine_models.SIDE)
    # One is the activation as it is.
    assert (found["whole"], found["resumed"]) == (1, num_active + 1), found
    pixels = parity.picture(*SIZE, seed=5)
    maps = explained(camflow, tmp_path / "maps", model, pixels, "--class", "all", "--method", "scorecam,ablationcam")
    for (method, of_class), heatmap in maps.items():
        wanted = reference("dead", model, pixels, method, int(of_class.removeprefix("class ")))
        assert np.abs(heatmap - wanted).max() <= 1e-4, (method, of_class)
    assert len({heatmap.tobytes() for heatmap in maps.values()}) > 3


def test_curves_share_their_ends(counts, export):
    """The image, the empty one and the blurred one are asked for once, whatever number of heatmaps the image has."""
    model = export(f"{MODELS}:plain", inputs=(MODELS,))
    ones = counts(model, "features", "eigencam+faithfulness", 1, size=affine_models.SIDE)["whole"]
    twos = counts(model, "features", "eigencam+faithfulness", 2, size=affine_models.SIDE)["whole"]
    assert (ones - 1, twos - 1) == (3 + 57, 3 + 2 * 57)


def test_heatmaps_of_very_many_classes_come_in_parts(binary, export, tmp_path):
    """Of a thousand of 224 x 224 pixels a third is in memory at once."""
    model = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    np.save(tmp_path / "input.npy", parity.picture(224, 224, seed=3).numpy())
    program = binary.parent / "examples" / "device_rate"
    assert program.is_file(), f"no {program}: run `cargo build --examples`"
    command = [program, model, tmp_path / "input.npy", "classes", 1000, "layer4", "cpu", 1, 1, "fp32", "gradcam", "input"]
    done = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=600)
    found = json.loads(done.stdout)
    assert (found["num_samples"], found["num_heatmaps"]) == (1, 1000)
    assert 8 << 20 < found["most_pixels"] <= 16 << 20, found


def test_samples_of_a_dataset_have_each_class_once(camflow, export, clone, quickstart, tmp_path):
    """Also those whose classes are drawn in parts: nothing in the database says so."""
    model = export(f"{MODELS}:many", inputs=(MODELS,))
    runs = {}
    for name, of_class in (("all", "all"), ("one", "class 70")):
        dataset = clone(fo.load_dataset(quickstart).limit(2))
        flags = ["--model", model, "--layers", "features", "--target", "predicted", "--class", of_class, "--npy", "none"]
        done = camflow(
            "annotate", "--dataset", dataset.name, *flags, "--device", "cpu", "--out", tmp_path / name, "--format", "json"
        )
        finished = next(event for event in done.events if event["event"] == "run_finished")
        assert finished["num_heatmaps"] == 2 * (affine_models.Many.COUNT if name == "all" else 1), finished
        dataset.reload()
        runs[name] = dataset
    fields = [field for field, kind in runs["all"].get_field_schema(embedded_doc_type=fo.Heatmap).items()]
    assert len(fields) == affine_models.Many.COUNT
    [field] = runs["one"].get_field_schema(embedded_doc_type=fo.Heatmap)
    for sample, alone in zip(runs["all"], runs["one"], strict=True):
        maps = [sample[field] for field in fields]
        assert sorted(heatmap.target_class for heatmap in maps) == sorted(f"class {n}" for n in range(affine_models.Many.COUNT))
        assert all(Path(heatmap.map_path).is_file() for heatmap in maps)
        found, wanted = (np.asarray(Image.open(one[field].map_path), np.int16) for one in (sample, alone))
        assert np.abs(found - wanted).max() <= 1 and sample[field].score == pytest.approx(alone[field].score, abs=1e-5)
        assert len({Path(heatmap.map_path).read_bytes() for heatmap in maps}) > affine_models.Many.COUNT // 4
