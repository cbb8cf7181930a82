"""Detectors of Ultralytics, which people install for themselves: what they give, and heatmaps, beside the library's own results."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import zipfile

import detectors
import numpy as np
import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def environment(cache, tmp_path_factory) -> dict[str, str]:
    return detectors.with_ultralytics(cache, tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def theirs(environment):
    return detectors.reference("ultralytics_reference.py", environment)


@pytest.mark.parametrize(
    "arguments",
    [
        ("yolov5n.yaml",),
        ("yolov8n.yaml",),
        ("yolov8s-world.yaml",),
        ("yolov10n.yaml",),
        ("-e", "yolov10n.yaml"),
        ("yolo11n-seg.yaml",),
        ("-e", "yolo26n.yaml"),
        ("-e", "yolo26n-pose.yaml"),
        ("yolov8n-obb.yaml",),
        ("-e", "yolo26n-obb.yaml"),
        ("rtdetr-l.yaml",),
        ("yoloe-11s-seg.yaml",),
        ("yoloe-26n-seg.yaml",),
    ],
    ids=lambda arguments: "".join(arguments).removesuffix(".yaml"),
)
def test_predictions_are_those_of_the_library(theirs, arguments):
    found = theirs("outputs", *arguments)
    assert found["num_compared"] > 50 and found["boxes"] < 1e-4 and found["scores"] < 1e-6


def own(settings: str, theirs, environment, folder, *flags: str) -> tuple[pathlib.Path, pathlib.Path]:
    """A file of random weights, and the model that is exported of it."""
    weights = folder / settings.replace("-l.yaml", "-own.pt").replace(".yaml", "-own.pt")
    theirs("save", *flags, settings, weights)
    return weights, detectors.export(f"ultralytics:{weights}", folder, environment)[0]


@pytest.mark.parametrize("settings", ["yolov8n.yaml", "rtdetr-l.yaml"])
def test_heatmaps_are_layercam_of_the_levels_by_their_maximum(camflow, database, environment, theirs, tmp_path, settings):
    weights, model = own(settings, theirs, environment, tmp_path)
    (score, found), (wanted_score, wanted) = detectors.of_two_boxes(
        camflow, theirs, weights, model, tmp_path, side=detectors.SIDE, channel=16, label="dog"
    )
    assert score == pytest.approx(wanted_score, rel=1e-4)
    assert np.abs(found - wanted).max() < 1e-4


def test_the_heatmap_of_one_prediction_is_what_the_library_draws(camflow, database, environment, theirs, tmp_path):
    weights, model = own("yolo26n.yaml", theirs, environment, tmp_path, "-c")
    (score, found), (wanted_score, wanted) = detectors.of_best(camflow, theirs, weights, model, tmp_path)
    assert score == pytest.approx(wanted_score, rel=1e-4)
    assert np.abs(found - wanted[0]).max() < 1e-4


def test_texts_of_one_that_scores_texts(environment, tmp_path):
    def export(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "camflow.export",
            name,
            "--weights",
            "none",
            "--out",
            str(tmp_path / "model.pt2"),
            *flags,
        ]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)

    refused = export("fiftyone:yoloe26n-seg-torch")
    assert refused.returncode == 2 and "nothing says which" in refused.stderr and "--classes" in refused.stderr, refused.stderr
    done = export("fiftyone:yoloe26n-seg-torch", "--classes", "a red car,dog", "--prompt", "a photo of {}")
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        [entry] = [name for name in archive.namelist() if name.endswith("/camflow.json")]
        known = json.loads(archive.read(entry))
    assert known["classes"] == {"0": "a red car", "1": "dog"} and known["task"] == "detection"


def test_without_the_library_it_is_said_what_to_install():
    assert importlib.util.find_spec("ultralytics") is None, "it is no part of the environment"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "camflow.export", "fiftyone:yolo11n-coco-torch", "--weights", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0 and "pip install ultralytics" in done.stderr
