"""What the exporter finds by running an archive: models that mix the images of a batch, and how far the default mode is from fp64."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGES, python_path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import trial_models
from archive_copies import copy_archive
from camflow import load
from logits import Logits
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, LayerCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

MIXING = ["no_statistics", "minus_the_mean", "sorted_batch", "across_the_batch", "only_the_gradient"]
OTHERS = ["own_statistics", "plain", "smooth", "wide"]

EXPORT = """
import sys, trial_models
from camflow.export import LoadedModel, export
from camflow.export.loading import user_metadata
camflow, folder, *names = sys.argv[1:]
for name in names:
    model = getattr(trial_models, name)().eval()
    loaded = LoadedModel(model, name, name, user_metadata(model, name))
    export(loaded, f"{folder}/{name}.pt2", static_size=True, measure_with=camflow or None)
"""


def exported(folder: Path, names: list[str], camflow: Path | str = "") -> Path:
    command = [sys.executable, "-c", EXPORT, str(camflow), str(folder), *names]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": python_path(PACKAGES, HERE)})
    return folder


@pytest.fixture(scope="module")
def measured(binary, tmp_path_factory) -> Path:
    """The models as `camflow export` makes them; the folder."""
    return exported(tmp_path_factory.mktemp("measured"), [*MIXING, *OTHERS, "unet"], binary)


@pytest.fixture(scope="module")
def unmeasured(tmp_path_factory) -> Path:
    """Some of them as earlier exporters made them."""
    return exported(tmp_path_factory.mktemp("unmeasured"), ["no_statistics", "sorted_batch", "plain"])


@pytest.fixture(scope="module")
def unet(measured) -> Path:
    """The U-Net as `camflow export` makes it."""
    return measured / "unet.pt2"


def metadata(archive: Path) -> dict:
    with zipfile.ZipFile(archive) as entries:
        name = next(n for n in entries.namelist() if n.endswith("/extra/camflow.json"))
        return json.loads(entries.read(name))


def heatmaps(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: np.load(path) for path in sorted(folder.glob("*.npy"))}


@pytest.mark.parametrize("name", MIXING)
def test_a_model_that_mixes_a_batch_is_found(measured, name):
    assert metadata(measured / f"{name}.pt2")["independent_of_batch"] is False


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_not(measured, name):
    found = metadata(measured / f"{name}.pt2")
    assert found["independent_of_batch"] is True
    assert len(found["default_mode"]) == 16, "measured at fewer inputs"


@pytest.mark.parametrize("made", ["measured", "unmeasured"])
@pytest.mark.parametrize("name", ["no_statistics", "sorted_batch"])
def test_neighbours_and_variants_make_no_difference(camflow, request, tmp_path, made, name):
    model = request.getfixturevalue(made) / f"{name}.pt2"
    images = torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1)) * torch.tensor([1.0, 2, 3]).reshape(3, 1, 1, 1)
    np.save(tmp_path / "all.npy", images.numpy())
    flags = (
        "--model",
        model,
        "--class",
        "bee",
        "--layers",
        "second",
        "--device",
        "cpu",
        "--method",
        "gradcam,layercam,scorecam,ablationcam",
        "--aug-smooth",
        "--exact",
    )
    done = camflow("explain", tmp_path / "all.npy", *flags, "--out", tmp_path / "together")
    assert "run one by one" in done.stderr
    together = heatmaps(tmp_path / "together")
    assert len(together) == 12
    for n in range(3):
        np.save(tmp_path / "all.npy", images[n : n + 1].numpy())
        camflow("explain", tmp_path / "all.npy", *flags, "--cam-batch-size", 1, "--out", tmp_path / f"alone-{n}")
        for file, alone in heatmaps(tmp_path / f"alone-{n}").items():
            assert np.array_equal(alone, together[file.replace(".0.", f".{n}.")]), file


def test_annotate_runs_such_a_model_one_by_one_and_finds_it_done(camflow, database, tiny_dataset, unmeasured, tmp_path):
    dataset = tiny_dataset(4)
    dataset.save()
    model = unmeasured / "no_statistics.pt2"

    def annotate(field, *flags):
        return camflow(
            "annotate",
            "--dataset",
            dataset.name,
            "--model",
            model,
            "--target",
            "predicted",
            "--class",
            "all",
            "--layers",
            "second",
            "--device",
            "cpu",
            "--exact",
            "--faithfulness",
            "--out",
            tmp_path / "out",
            "--field",
            f"{field}_{{class}}",
            *flags,
        ).stderr

    assert "run one by one" in annotate("six", "--batch-size", 6)
    annotate("one", "--batch-size", 1, "--cam-batch-size", 1)
    dataset.reload()
    compared = 0
    for name in trial_models.NAMES:
        for sample in dataset.exists(f"six_{name}"):
            six, one = sample[f"six_{name}"], sample[f"one_{name}"]
            assert np.array_equal(load(six), load(one))
            assert (six.score, six.confidence, six.road, six.deletion_auc) == (
                one.score,
                one.confidence,
                one.road,
                one.deletion_auc,
            )
            compared += 1
    assert compared == 12, "four pictures, three classes"
    assert "nothing to do" in annotate("six")


def test_labels_of_versions_that_ran_batches_are_made_again_and_not_refused(camflow, database, tiny_dataset, measured, tmp_path):
    dataset, model = tiny_dataset(2), measured / "no_statistics.pt2"
    # What earlier versions had in their labels: the same settings, but that images are run one by one.
    together = copy_archive(model, tmp_path / "together.pt2", lambda metadata: metadata.update(independent_of_batch=True))

    def annotate(model, *flags):
        return camflow(
            "annotate",
            "--dataset",
            dataset.name,
            "--model",
            model,
            "--target",
            "predicted",
            "--class",
            trial_models.NAMES[0],
            "--layers",
            "second",
            "--device",
            "cpu",
            "--exact",
            "--out",
            tmp_path / "out",
            "--field",
            "cam",
            *flags,
        )

    def fingerprints():
        dataset.reload()
        return [fingerprint.split("-") for fingerprint in dataset.values("cam.fingerprint")]

    annotate(together)
    before = [settings for _, settings, *_ in fingerprints()]
    annotate(model, "--replace")
    now = fingerprints()
    assert all(parts[1] != settings for parts, settings in zip(now, before, strict=True))
    old = ["-".join([parts[0], settings, *parts[2:]]) for parts, settings in zip(now, before, strict=True)]
    dataset.set_values("cam.fingerprint", old)
    annotate(model)
    assert fingerprints() == now


def test_the_default_of_a_u_net_keeps_to_its_bound(camflow, unet, tmp_path):
    """At the edge of a ReLU the last bit of a sum decides: the faster operators are left where they move the heatmaps."""
    figures = metadata(unet)["default_mode"]
    missed = figures[-1]["from_float64"]
    assert missed["default"] > 3 * missed["exact"] + 1e-4, "nothing to see: choose other weights"

    model = trial_models.unet().eval()
    double = copy.deepcopy(model).double()
    layers = ("encoder.layer2", "encoder.layer4")
    mask = np.zeros((160, 192), np.float32)
    mask[40:-32, 64:-30] = 1
    np.save(tmp_path / "mask.npy", mask.astype(np.uint8))

    def reference(model, pixels):
        maps = []
        for kind in (GradCAM, LayerCAM):
            for layer in layers:
                target = SemanticSegmentationTarget(1, mask)
                target.mask = target.mask.to(pixels.dtype)
                with kind(model=Logits(model), target_layers=[model.get_submodule(layer)]) as cam:
                    maps.append(cam(input_tensor=pixels, targets=[target])[0])
        return np.stack(maps)

    def explained(*flags):
        done = camflow(
            "explain",
            tmp_path / "x.npy",
            "--mask",
            tmp_path / "mask.npy",
            "--class",
            1,
            "--model",
            unet,
            "--device",
            "cpu",
            "--layers",
            ",".join(layers),
            "--method",
            "gradcam,layercam",
            "--out",
            tmp_path / "out",
            *flags,
        )
        maps = heatmaps(tmp_path / "out")
        return done, np.stack(
            [
                next(m for name, m in maps.items() if f".{method}." in name and layer.split(".")[1] in name)
                for method in ("gradcam", "layercam")
                for layer in layers
            ]
        )

    for seed in (2, 3, 4):
        generator = torch.Generator().manual_seed(seed)
        coarse = torch.randn(1, 3, 20, 24, generator=generator)
        pixels = torch.nn.functional.interpolate(coarse, (160, 192), mode="bicubic", align_corners=False)
        pixels = (pixels + 0.1 * torch.randn(pixels.shape, generator=generator)).contiguous()
        np.save(tmp_path / "x.npy", pixels.numpy())
        truth, single = reference(double, pixels.double()), reference(model, pixels)
        own = np.abs(single - truth).max()
        done, maps = explained()
        assert "the same as `--exact`, as the faster way (`--fast`) was" in done.stderr
        ours, fast = np.abs(maps - truth).max(), np.abs(explained("--fast")[1] - truth).max()
        print(f"{seed}: from fp64: PyTorch {own:.1e}, default {ours:.1e}, --fast {fast:.1e}")
        assert ours <= 3 * own + 1e-4
    assert np.array_equal(explained()[1], explained("--exact")[1])


def test_sums_that_cancel_are_as_far_from_float64_as_pytorchs(camflow, binary, tmp_path):
    """Grad-CAM++ divides by them, so that the last bit decides: neither PyTorch nor a mode of camflow's is the nearer one at each
    input. What is to be seen is that the default loses nothing over several, and that Grad-CAM keeps to its bound at each."""
    archive = exported(tmp_path, ["upernet"], binary) / "upernet.pt2"
    model = trial_models.upernet().eval()
    double = copy.deepcopy(model).double()
    layers = ("model.backbone.encoder.stages.0", "model.backbone.encoder.stages.1")
    mask = np.zeros((160, 192), np.float32)
    mask[40:-32, 64:-30] = 1
    np.save(tmp_path / "mask.npy", mask.astype(np.uint8))
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(12, 3, 20, 24, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, (160, 192), mode="bicubic", align_corners=False)
    pixels = (pixels + 0.1 * torch.randn(pixels.shape, generator=generator)).contiguous()
    np.save(tmp_path / "x.npy", pixels.numpy())
    flags = ("--mask", tmp_path / "mask.npy", "--class", 1, "--model", archive, "--device", "cpu", "--layers", ",".join(layers))
    camflow("explain", tmp_path / "x.npy", *flags, "--method", "gradcam,gradcam++", "--out", tmp_path / "out")
    maps = heatmaps(tmp_path / "out")

    def reference(kind, model, image):
        target = SemanticSegmentationTarget(1, mask)
        target.mask = target.mask.to(image.dtype)
        found = []
        for layer in layers:
            with kind(model=model, target_layers=[model.get_submodule(layer)]) as cam:
                found.append(cam(input_tensor=image, targets=[target])[0])
        return np.stack(found)

    own, ours = {}, {}
    for method, kind in {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}.items():
        for number, image in enumerate(pixels.split(1)):
            truth = reference(kind, double, image.double())
            found = np.stack([maps[f"x.{number}.bee.{method}.layer_{layer}.npy"] for layer in layers])
            own.setdefault(method, []).append(np.abs(reference(kind, model, image) - truth).max())
            ours.setdefault(method, []).append(np.abs(found - truth).max())
    print(f"from fp64: PyTorch {own}, default {ours}")
    assert all(mine <= 3 * theirs + 1e-4 for mine, theirs in zip(ours["gradcam"], own["gradcam"], strict=True))
    assert max(own["gradcam++"]) > 1e-3, "nothing to see: choose other weights"
    assert np.median(ours["gradcam++"]) <= 3 * np.median(own["gradcam++"])


def test_inspect_and_doctor_say_how_a_model_is_run(camflow, database, measured, unmeasured, unet, tmp_path):
    def inspected(path):
        return camflow("inspect", path).stdout

    assert "default mode  faster than `--exact`; of 16 inputs the farthest was" in inspected(measured / "smooth.pt2")
    assert "batches       images are run together" in inspected(measured / "smooth.pt2")
    assert "batches       images are run one by one" in inspected(measured / "sorted_batch.pt2")
    assert "default mode  the same as `--exact`, as the faster way (`--fast`) was" in inspected(unet)
    old = inspected(unmeasured / "plain.pt2")
    assert "was not measured at export" in old and "was not looked at when it was exported" in old
    models = tmp_path / "models"
    models.mkdir()
    for name, path in {"u-net": unet, "sorting": measured / "sorted_batch.pt2", "old": unmeasured / "plain.pt2"}.items():
        (models / f"{name}.pt2").symlink_to(path)
    said = camflow("doctor", env={"CAMFLOW_CACHE": str(tmp_path)}).stdout
    assert (
        "u-net: the same as `--exact`" in said
        and "old: faster than `--exact`; its distance from float64 was not measured" in said
    )
    assert "images one by one, as it mixes those of a batch" in next(line for line in said.splitlines() if "sorting" in line)


def test_inspect_and_doctor_for_machines(camflow, database, measured, unet, tmp_path):
    (model,) = camflow("inspect", unet, "--format", "json").events
    assert model["event"] == "model" and model["runs_exact_operators"] and not model["one_by_one"]
    assert camflow("inspect", measured / "sorted_batch.pt2", "--format", "json").events[0]["one_by_one"]
    assert model["preprocess"][-1]["op"] == "normalize" and model["free_dimensions"][0] == "batch"
    numbered = {layer["number"]: layer for layer in model["layers"] if layer["number"]}
    assert numbered["1"]["has_gradient"] and len(numbered["1"]["shape"]) == 4
    checks = {event["check"]: event for event in camflow("doctor", "--format", "json").events}
    assert {"libtorch", "CUDA", "FiftyOne", "exporter", "mongod", "database", "models", "defaults"} == set(checks)
    assert all(check["ok"] for check in checks.values())
    # Where a database is named and answers, nobody needs FiftyOne's own.
    checks = {e["check"]: e for e in camflow("doctor", "--python", "/bin/false", "--format", "json", code=1).events}
    assert not checks["FiftyOne"]["ok"] and checks["FiftyOne"]["hints"] and checks["mongod"]["ok"]


def test_an_archive_without_figures_runs_as_before_and_says_so(camflow, unmeasured, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 48, 64), np.float32))
    run = ("explain", tmp_path / "x.npy", "--class", "bee", "--device", "cpu", "--out", tmp_path / "out", "--model")
    assert "was not measured when it was exported" in camflow(*run, unmeasured / "plain.pt2").stderr
    for flag in (["--exact"], ["--fast"], ["--precision", "bf16"]):
        assert "was not measured" not in camflow(*run, unmeasured / "plain.pt2", *flag).stderr
    assert "one by one" not in camflow(*run, unmeasured / "plain.pt2").stderr
