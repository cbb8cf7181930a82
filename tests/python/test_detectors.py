"""Detectors: heatmaps of the predictions that stored detections mean, against pytorch_grad_cam."""

from __future__ import annotations

import json
import os

import hugging_face_folders as folders
import numpy as np
import pytest
from archive_copies import copy_archive
from PIL import Image

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo
import transformers
from camflow import load
from pytorch_grad_cam import GradCAM, LayerCAM
from small_detector import SIZE, corners, picture, reference, tensor

import torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.save(folders.detr, tmp_path_factory.mktemp("detr") / "detr")


@pytest.fixture(scope="module")
def model(camflow, folder):
    path = folder.parent / "detr.pt2"
    camflow("export", folder, "--out", path)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    return transformers.DetrForObjectDetection.from_pretrained(folder).eval()


@pytest.fixture
def dataset(database, detector, request, tmp_path):
    """Three pictures: a dog and two cats, where the detector has predictions; a dog nearly there; a dog where there is none."""
    made = fo.Dataset(f"{request.node.name}-detections", persistent=True)
    for number in range(3):
        image = picture(number)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        with torch.no_grad():
            left, top, right, bottom = corners(detector(pixel_values=tensor(image)).pred_boxes)[0].clip(0, 1).numpy().T
        boxes = np.stack([left, top, right - left, bottom - top], axis=1).astype(float)
        labels = {
            0: [("dog", boxes[3]), ("cat", boxes[7]), ("cat", boxes[12])],
            1: [("dog", boxes[5] + [0.01, 0.01, -0.02, 0.01])],
            2: [("dog", np.array([0.97, 0.97, 0.02, 0.02]))],
        }[number]
        detections = [fo.Detection(label=label, bounding_box=box.tolist()) for label, box in labels]
        made.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), truth=fo.Detections(detections=detections)))
    yield made
    fo.delete_dataset(made.name)


@pytest.mark.parametrize(("name", "method"), [("gradcam", GradCAM), ("layercam", LayerCAM)])
def test_heatmaps_are_of_the_predictions_that_detections_mean(camflow, model, detector, dataset, tmp_path, name, method):
    asked = ["--target", "labels:truth", "--class", "dog,cat", "--method", name, "--npy", "f32"]
    arguments = ["--dataset", dataset.name, "--model", model, "--out", tmp_path / "maps", "--device", "cpu", "--exact"]
    done = camflow("annotate", *arguments, *asked, "--format", "json")
    finished = next(event for event in done.events if event["event"] == "run_finished")
    assert (finished["num_committed"], finished["num_failed"]) == (2, 0)
    dataset.reload()
    infix = "grad" if name == "gradcam" else name
    channels = {"person": 0, "dog": 1, "cat": 2}
    compared = 0
    for number, sample in enumerate(dataset):
        for label in ("dog", "cat"):
            field = f"{label}_{infix}_layer_2"
            boxes = [d.bounding_box for d in sample.truth.detections if d.label == label]
            if number == 2 or not boxes:
                assert field not in sample.field_names or sample[field] is None
                continue
            wanted, score = reference(method, detector, picture(number), boxes, channels[label])
            assert sample[field].score == pytest.approx(score, rel=1e-4, abs=1e-5)
            assert np.abs(load(sample[field]) - wanted).max() < 1e-4
            # Measures are of the boxes.
            assert 0 < sample[field].energy_inside < 1
            compared += 1
    assert compared == 3


def test_what_the_model_itself_detects(camflow, model, detector, dataset, tmp_path):
    """Of untrained queries none is a detection, until little suffices."""
    arguments = ["--dataset", dataset.name, "--out", tmp_path / "maps", "--device", "cpu", "--exact", "--format", "json"]
    done = camflow("annotate", *arguments, "--model", model, "--target", "predicted", "--class", "all")
    finished = next(event for event in done.events if event["event"] == "run_finished")
    assert finished["num_committed"] == 0 and finished["num_skipped"] == 3
    with torch.no_grad():
        chances = [detector(pixel_values=tensor(picture(n))).logits.softmax(-1)[0, :, :-1].max(-1) for n in range(3)]
    threshold = float(np.median([float(one.values.max()) for one in chances]))
    eager = copy_archive(model, tmp_path / "eager.pt2", lambda meta: meta["detections"].update(threshold=threshold - 1e-6))
    camflow("annotate", *arguments, "--model", eager, "--target", "predicted", "--class", "all", "--replace")
    dataset.reload()
    names = ("person", "dog", "cat", "car", "bus", "horse", "sheep", "bird")
    for number, (sample, found) in enumerate(zip(dataset, chances, strict=True)):
        detected = {names[int(i)] for i, chance in zip(found.indices, found.values, strict=True) if chance >= threshold - 1e-6}
        has = {
            name
            for name in names
            if f"{name}_layercam_layer_2" in sample.field_names and sample[f"{name}_layercam_layer_2"] is not None
        }
        assert has == detected
        # Measures are of the boxes of what is detected.
        with torch.no_grad():
            sides = corners(detector(pixel_values=tensor(picture(number))).pred_boxes)[0].numpy().clip(0, 1)
        for name in has:
            object_ = np.zeros(SIZE, bool)
            for box, index, chance in zip(sides, found.indices, found.values, strict=True):
                if names[int(index)] == name and chance >= threshold - 1e-6:
                    left, top, right, bottom = (int(side) for side in box * [SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
                    object_[top:bottom, left:right] = True
            label = sample[f"{name}_layercam_layer_2"]
            assert label.object_area == pytest.approx(object_.mean(), abs=2e-3) and object_.mean() > 0
            assert label.energy_inside == pytest.approx(load(label)[object_].sum() / load(label).sum(), abs=5e-3)
    assert any(float(one.values.max()) >= threshold for one in chances)


def test_what_is_no_question_for_a_detector_is_refused(camflow, model, dataset, tmp_path):
    for sample in dataset:
        sample["masks"] = fo.Segmentation(mask=np.ones((8, 8), np.uint8))
        sample.save()
    arguments = ["annotate", "--dataset", dataset.name, "--model", model, "--out", tmp_path / "maps", "--class", "dog"]
    assert "`masks` has masks" in camflow(*arguments, "--target", "labels:masks", code=2).stderr
    assert "of boxes, not of pixels" in camflow(*arguments, "--target", "pixel=3,4", code=2).stderr
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "mask.png")
    explain = ["explain", tmp_path / "0.png", "--model", model, "--class", "dog", "--out", tmp_path / "out"]
    assert "`--mask` is one of pixels" in camflow(*explain, "--mask", tmp_path / "mask.png", code=2).stderr


def test_a_detector_is_checked_by_the_predictions_that_it_made_first(camflow, model, tmp_path):
    # One without weights that find anything is sure of nothing.
    archive = copy_archive(model, tmp_path / "sure.pt2", lambda metadata: metadata["detections"].update(threshold=0.0))
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    numbers = tmp_path / "numbers.json"
    flags = ("--steps", 2, "--draws", 1, "--device", "cpu", "--json", numbers)
    refused = camflow("check-model", model, tmp_path / "0.png", *flags, code=2)
    assert "predicts nothing of what is explained in any image" in refused.stderr
    camflow("check-model", archive, tmp_path / "0.png", *flags)
    [image] = json.loads(numbers.read_text())["images"]
    [heatmap] = image["heatmaps"]
    # Again it is what the detector itself decides by, told by which of its predictions those were.
    assert heatmap["repeat"] == 0 and not heatmap["is_constant"]
    assert [one["missing"] for one in heatmap["cascading"]] == [None, None]
    assert heatmap["cascading"][-1]["spearman"] < 0.9
