"""`--faithfulness` beside pytorch_grad_cam's metrics, and beside deletion and insertion written with NumPy and SciPy."""

from __future__ import annotations

import runpy
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image
from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
from pytorch_grad_cam.metrics.road import ROADCombined
from scipy import ndimage

import torch

MODELS = Path(__file__).with_name("small_inputs.py")
SIDE = 64
PERSON = 15
ASKED = ("confidence", "confidence_drop", "confidence_increase", "deletion_auc", "insertion_auc", "road")
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def models():
    """The models of MODELS, by name."""
    return runpy.run_path(str(MODELS))


@pytest.fixture
def people(quickstart, tmp_path):
    """Small square pictures around people, with their masks."""
    dataset = fo.Dataset("faithfulness", persistent=True)
    for sample in fo.load_dataset(quickstart):
        mask = sample.ground_truth.get_mask() == PERSON
        if len(dataset) == 3 or not mask.any():
            continue
        image = Image.open(sample.filepath).convert("RGB")
        box = (0, 0, min(image.size), min(image.size))
        small = Image.fromarray(mask).crop(box).resize((SIDE, SIDE))
        if np.asarray(small).any():
            path = tmp_path / f"{len(dataset)}.png"
            image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
            mask = np.where(small, PERSON, 0).astype(np.uint8)
            dataset.add_sample(fo.Sample(str(path), ground_truth=fo.Segmentation(mask=mask)))
    dataset.default_mask_targets = {0: "background", PERSON: "person"}
    yield dataset
    dataset.delete()


@pytest.fixture
def annotate(camflow, people, export, tmp_path):
    def run(model: str, *flags):
        archive = export(f"{MODELS}:{model}", inputs=(MODELS,))
        camflow(
            *("annotate", "--dataset", people.name, "--model", archive, "--class", "person", "--field", "heat_{layer}"),
            *("--device", "cpu", "--exact", "--out", tmp_path / "maps", "--faithfulness", *flags),
        )
        people.reload()

    return run


def expected(model, confidence, sample, heatmap: np.ndarray) -> dict:
    """What camflow should have found; `confidence` is that of an output of the model."""
    image = (np.asarray(Image.open(sample.filepath), np.float32) / 255 - MEAN) / DEVIATION
    x = torch.from_numpy(image).permute(2, 0, 1)[None]

    def ask(images) -> list[float]:
        with torch.no_grad():
            return [float(confidence(output)) for output in model(torch.as_tensor(np.stack(images)))]

    # Most relevant first.
    order = np.argsort(-heatmap, axis=None, kind="stable")
    steps = [round(step * heatmap.size / 20) for step in range(21)]
    relevant = [np.isin(np.arange(heatmap.size), order[:step]).reshape(heatmap.shape) for step in steps]
    plain = x[0].numpy()
    # A window of +- 5 pixels of 224, rounded to whole ones.
    sigma = 5 * SIDE / 224
    blurred = ndimage.gaussian_filter(plain, (0, sigma, sigma), radius=round(sigma), mode="nearest")
    cams, targets = heatmap[None], [confidence]
    before = ask([plain])[0]
    drop = DropInConfidence()(x, cams, targets, model)[0]
    return {
        "confidence": before,
        "confidence_drop": drop / before,
        "confidence_increase": bool(IncreaseInConfidence()(x, cams, targets, model)[0]),
        "deletion_auc": np.trapezoid(ask([plain * ~gone for gone in relevant]), dx=1 / 20),
        "insertion_auc": np.trapezoid(ask([np.where(back, plain, blurred) for back in relevant]), dx=1 / 20),
        "road": ROADCombined()(x, cams, targets, model)[0],
    }


def compare(people, model, confidence_of) -> list[dict]:
    """Checks the labels of all samples; what they should be."""
    found = []
    for sample in people:
        label = sample.heat_1
        heatmap = load(label)
        # Where values are the same, any order is right.
        assert (heatmap == 0).mean() < 0.01
        wanted = expected(model, confidence_of(sample), sample, heatmap)
        for name in ASKED[:3]:
            assert label[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6), name
        # Pixels at the border have the values of their neighbours; ROAD has noise.
        for name in ASKED[3:]:
            assert label[name] == pytest.approx(wanted[name], abs=5e-4), name
        found.append(wanted)
    return found


def test_of_a_segmentation_network(people, annotate, models):
    annotate("segmenter", "--method", "scorecam", "--layers", "1")

    def confidence_of(sample):
        mask = torch.from_numpy(sample.ground_truth.mask == PERSON)
        return lambda output: torch.softmax(output, 0)[PERSON][mask].mean()

    network = models["segmenter"]()
    found = compare(people, lambda x: network(x)["out"], confidence_of)
    # The network does find people, and the numbers differ by more than what is allowed.
    assert max(wanted["confidence"] for wanted in found) > 0.5
    assert np.ptp([wanted["road"] for wanted in found]) > 0.01


def test_of_a_classifier(people, annotate, models):
    annotate("classifier", "--method", "scorecam", "--layers", "1", "--target", "predicted")
    found = compare(people, models["classifier"](), lambda _: lambda output: torch.softmax(output, 0)[1])
    assert np.ptp([wanted["insertion_auc"] for wanted in found]) > 0.01


def test_it_is_asked_for(people, annotate, camflow, export, tmp_path):
    """Whatever is stored of the heatmap, what is asked is the same; a run without the flag leaves nothing stale."""
    annotate("segmenter", "--layers", "4")
    first = people.values([f"heat_4.{name}" for name in ASKED])
    assert all(value is not None for values in first for value in values)
    assert all(f"heat_4.{name}" in people.get_field_schema(flat=True) for name in ASKED)
    annotate("segmenter", "--layers", "4", "--size", "layer", "--cam-batch-size", "7", "--replace")
    for before, after in zip(first, people.values([f"heat_4.{name}" for name in ASKED]), strict=True):
        assert after == pytest.approx(before, abs=1e-5)
    archive = export(f"{MODELS}:segmenter", inputs=(MODELS,))
    done = camflow(
        *("annotate", "--dataset", people.name, "--model", archive, "--class", "person", "--field", "heat_{layer}"),
        *("--device", "cpu", "--exact", "--out", tmp_path / "maps", "--layers", "4", "--size", "layer", "--format", "json"),
    )
    [finished] = [event for event in done.events if event["event"] == "run_finished"]
    assert finished["num_committed"] == 3, "the settings are others"
    people.reload()
    assert all(sample.heat_4.entropy is not None for sample in people)
    # The forward pass alone tells the confidence.
    assert people.values("heat_4.confidence") == pytest.approx(first[0], abs=1e-5)
    assert all(sample.heat_4[name] is None for sample in people for name in ASKED[1:])
