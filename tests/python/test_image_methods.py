"""Methods at the image itself: numbers of references in PyTorch and of pytorch_grad_cam, whatever the batch; what they refuse; and
every part of camflow that takes a heatmap takes theirs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow import load

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "lab"))
import image_reference as reference
import parity
from logits import Logits

CASES = {case.model: case for case in parity.CASES}
RESNET, DEIT, MOBILENET = "torchvision:resnet18", "timm:deit_tiny_patch16_224", "torchvision:mobilenet_v3_small"
CHANNEL = 5
SAMPLES = 6
SAMPLED = ["smoothgrad", "integrated-gradients", "rise"]
OTHERS = [name for name in reference.METHODS if name not in SAMPLED]
ALLOWED = 1e-4


@pytest.fixture(scope="module")
def network(export):
    """A model of the parity table by name, with its archive."""

    def load_network(name):
        case = CASES[name]
        archive = export(case.model, *case.export)
        module = parity.export_model.load_model(case.model, "none").module
        module.load_state_dict(torch.export.load(archive).state_dict)
        return Logits(module).eval().requires_grad_(True), archive, case

    return load_network


def maps(binary, archive, case, layers, pixels, methods, *flags):
    found = parity.camflow_maps(binary, archive, case, layers, pixels, None, CHANNEL, methods, ["--exact", *map(str, flags)])
    return {method: heatmap for (method, _), heatmap in found.items()}


def assert_near(found, wanted, what, network=RESNET):
    """In a network with ReLUs the last bit of an image between two others may switch one, which moves a few pixels."""
    difference = np.abs(found - wanted)
    assert np.quantile(difference, 0.99) <= ALLOWED, what
    assert difference.max() <= (0.05 if network == RESNET else ALLOWED), what


@pytest.mark.parametrize("name", [RESNET, DEIT])
def test_they_are_what_the_papers_say(binary, network, name):
    model, archive, case = network(name)
    size = (64, 80) if name == RESNET else case.size
    pixels = parity.picture(*size, seed=7)
    others = [method for method in OTHERS if name == RESNET or method not in reference.GUIDED]
    window = None if name == RESNET else 56
    flags = [] if window is None else ["--cam-window", window]
    found = maps(binary, archive, case, case.layers[-1:], pixels, others, *flags)
    found |= maps(binary, archive, case, case.layers[-1:], pixels, SAMPLED, "--cam-samples", SAMPLES, "--cam-batch-size", 8)
    layer = model.model.get_submodule(case.layers[-1])
    for method, heatmap in found.items():
        wanted = reference.of(method, model, pixels, CHANNEL, "input.0", SAMPLES, layer, window)
        assert heatmap.max() > 0.9 and heatmap.std() > 0.02, method
        assert_near(heatmap, reference.heatmap(wanted), method, name if method in SAMPLED else "no steps")
    assert set(found) == {*others, *SAMPLED}


def test_baselines_and_windows(binary, network):
    model, archive, case = network(RESNET)
    pixels = parity.picture(64, 80, seed=8)
    for name in ("black", "zero", "mean"):
        flags = ("--cam-baseline", name, "--cam-samples", SAMPLES, "--cam-window", 17, "--cam-batch-size", 8)
        found = maps(binary, archive, case, ["layer4"], pixels, ["integrated-gradients", "occlusion"], *flags)
        wanted = reference.integrated_gradients(model, pixels, CHANNEL, SAMPLES, name)
        assert_near(found["integrated-gradients"], reference.heatmap(wanted), name)
        wanted = reference.occlusion(model, pixels, CHANNEL, 17, name)
        assert np.abs(found["occlusion"] - reference.heatmap(wanted)).max() <= ALLOWED, name


def test_the_reference_is_complete(network):
    """What integrated gradients add up to is the difference of the scores, the more exactly the more steps."""
    model, _, _ = network(DEIT)
    pixels = parity.picture(224, 224, seed=9)
    with torch.no_grad():
        wanted = float((model(pixels) - model(reference.baseline(pixels, "black")))[0, CHANNEL])
    found = float(reference.attributions(model, pixels, CHANNEL, 16).sum())
    assert abs(wanted) > 0.01 and abs(found - wanted) < 0.05 * abs(wanted)


def test_company_does_not_matter(camflow, network, tmp_path):
    """Two images and two classes in one run, and each by itself, in other batches."""
    _, archive, _ = network(RESNET)
    inputs = []
    for number in range(2):
        inputs.append(tmp_path / f"input{number}.npy")
        np.save(inputs[-1], parity.picture(48, 48, seed=number).numpy())

    def run(images, classes, *flags):
        methods = ("--method", ",".join(reference.METHODS), "--layers", "layer4", "--cam-samples", 5, "--exact")
        out = tmp_path / f"{len(images)}-{images[0].stem}-{classes}"
        done = camflow(
            *("explain", *images, "--model", archive, "--class", classes, *methods, *flags, "--out", out),
            *("--device", "cpu", "--format", "json"),
        )
        heatmaps = [event for event in done.events if event["event"] == "heatmap"]
        return {(Path(event["input"]).stem, event["channel"], event["method"]): np.load(event["files"][0]) for event in heatmaps}

    together = run(inputs, "5,9")
    assert len(together) == 2 * 2 * len(reference.METHODS)
    for image in inputs:
        for channel in (5, 9):
            for key, heatmap in run([image], str(channel), "--cam-batch-size", 3).items():
                assert_near(heatmap, together[key], key)
    for method in reference.METHODS:
        assert np.abs(together["input0", 5, method] - together["input1", 5, method]).max() > 0.05, method
        assert np.abs(together["input0", 5, method] - together["input0", 9, method]).max() > 0.01, method


def test_what_they_refuse(camflow, network, tmp_path):
    np.save(tmp_path / "input.npy", parity.picture(224, 224, seed=1).numpy())

    def explain(name, *flags, code=2):
        _, archive, _ = network(name)
        arguments = ("--model", archive, "--class", CHANNEL, "--out", tmp_path / "out", "--device", "cpu")
        return camflow("explain", tmp_path / "input.npy", *arguments, *flags, code=code).stderr

    said = explain(DEIT, "--method", "guided-backprop")
    assert "has none: its activations are `gelu`" in said and "use `saliency`" in said
    assert "`hardsigmoid`, `hardswish` stays as it is" in explain(MOBILENET, "--method", "guided-gradcam", code=0)
    assert "`--cam-samples` does nothing" in explain(RESNET, "--method", "gradcam,saliency", "--cam-samples", "5")
    assert "`--cam-window` does nothing" in explain(RESNET, "--method", "rise", "--cam-window", "5")
    assert "`--cam-baseline` does nothing" in explain(RESNET, "--method", "smoothgrad", "--cam-baseline", "black")
    assert "chooses a layer, and the methods have none" in explain(RESNET, "--method", "occlusion", "--layers", "auto")
    said = explain(RESNET, "--method", "integrated-gradients", "--slice-height", "64")
    assert "cannot be put together of slices" in said


def test_a_run_measures_them_and_knows_what_is_up_to_date(camflow, network, quickstart, tmp_path):
    _, archive, _ = network(RESNET)
    dataset = fo.load_dataset(quickstart).limit(2).clone("image-methods")
    dataset.persistent = True

    def annotate(methods, *flags):
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--model", archive, "--target", "top", "--method", methods, *flags),
            *("--out", tmp_path / "maps", "--device", "cpu", "--format", "json", "--batch-size", 1),
        )
        dataset.reload()
        return next(event for event in done.events if event["event"] == "run_finished")["num_committed"]

    methods = "saliency,integrated-gradients,guided-backprop"
    assert annotate(methods, "--cam-samples", 4) == 2
    fields = [name for name in dataset.get_field_schema() if name.startswith("top_")]
    assert fields == [f"top_{method}_layer_image" for method in ("saliency", "integrated_gradients", "guided_backprop")]
    for sample in dataset:
        label = sample["top_integrated_gradients_layer_image"]
        assert label.layer == "the image, 4 steps from black" and 0 < label.entropy < 1 and 0 < label.confidence < 1
        assert load(label).max() > 0.9
    # What one method is asked leaves the others as they are.
    before = {field: [label.fingerprint for label in dataset.values(field)] for field in fields}
    assert annotate(methods, "--cam-samples", 4) == 0
    assert annotate(methods, "--cam-samples", 3, "--replace") == 2
    after = {field: [label.fingerprint for label in dataset.values(field)] for field in fields}
    assert [after[field] == before[field] for field in fields] == [True, False, True]
    page = tmp_path / "report.html"
    camflow("report", "--dataset", dataset.name, "--out", page)
    assert "integrated-gradients" in page.read_text()
    dataset.delete()


def test_the_documentation_explains_every_name_of_pytorch_grad_cam(camflow):
    """What the installed peer exports is among camflow's methods, or the page says why not."""
    import pytorch_grad_cam
    from pytorch_grad_cam.metrics import arcc, cam_mult_image, perturbation_confidence, road
    from pytorch_grad_cam.utils import model_targets

    def classes(module):
        return {name for name, value in vars(module).items() if isinstance(value, type) and value.__module__ == module.__name__}

    exported = {name for name, value in vars(pytorch_grad_cam).items() if isinstance(value, type)}
    for module in (model_targets, arcc, cam_mult_image, perturbation_confidence, road):
        exported |= classes(module)
    assert len(exported) > 40
    page = (ROOT / "docs" / "reference" / "methods.md").read_text()
    section = page.partition("## Names in pytorch_grad_cam")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))
    explained = {name for names in rows for name in re.findall(r"`([^`]+)`", names)}
    assert exported - explained == set(), "not on the page"
    assert explained - exported == set(), "on the page, and the peer has no such thing"
    help_text = camflow("annotate", "--help").stdout
    listed = re.search(r"\[possible values: (gradcam,[^\]]+)\]", help_text)[1]
    known = {name.strip() for name in re.sub(r"\s+", " ", listed).split(",")}
    for names, there in rows.items():
        for method in re.findall(r"`--method ([^`]+)`", there):
            assert method in known, names
