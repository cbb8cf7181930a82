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
from camflow import load
from conftest import PACKAGES, python_path

pytestmark = pytest.mark.begins


@pytest.fixture(scope="module")
def environment(cache, tmp_path_factory) -> dict[str, str]:
    return detectors.with_ultralytics(cache, tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def theirs(environment):
    with detectors.reference("ultralytics_reference.py", environment) as asked:
        yield asked


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
        ("-e", "-pf", "yoloe-26n-seg.yaml"),
        ("-pf", "yoloe-11s-seg.yaml"),
    ],
    ids=lambda arguments: "".join(arguments).removesuffix(".yaml"),
)
def test_predictions_are_those_of_the_library(theirs, arguments):
    found = theirs("outputs", *arguments)
    assert found["num_compared"] > 50 and found["boxes"] < 1e-4 and found["scores"] < 1e-6


def own(settings: str, theirs, environment, folder, *flags: str, export=()) -> tuple[pathlib.Path, pathlib.Path]:
    """A file of random weights, and the model that is exported of it with the flags `export`."""
    weights = folder / settings.replace("-l.yaml", "-own.pt").replace(".yaml", "-own.pt")
    theirs("save", *flags, settings, weights)
    return weights, detectors.export(f"ultralytics:{weights}", folder, environment, *export)[0]


# Large ones at half of the usual side, which is a quarter of the work.
HALF = ("--size", "320x320", "--letterbox", "320", "--preprocess", "none")


@pytest.mark.parametrize(
    "settings, saved, side, num_levels, flags",
    [
        ("yolov8n.yaml", (), detectors.SIDE, 3, ()),
        pytest.param("rtdetr-l.yaml", (), 320, 3, HALF, marks=pytest.mark.long),
        # Prompt-free: with a list of classes of its own. No prediction of the first two levels depends on the last.
        ("yoloe-11s-seg.yaml", ("-pf",), 320, 2, HALF),
    ],
    ids=["yolov8n.yaml", "rtdetr-l.yaml", "yoloe-11s-seg-pf.yaml"],
)
def test_heatmaps_are_layercam_of_the_levels_by_their_maximum(
    camflow, database, environment, theirs, tmp_path, settings, saved, side, num_levels, flags
):
    weights, model = own(settings, theirs, environment, tmp_path, *saved, export=flags)
    (score, found), (wanted_score, wanted) = detectors.of_two_boxes(
        camflow, theirs, weights, model, tmp_path, side=side, channel=16, label="dog", num_levels=num_levels
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
    # At half of the usual side, which is a quarter of the work.
    asked = ("--classes", "a red car,dog", "--prompt", "a photo of {}", "--size", "320x320")
    done = export("fiftyone:yoloe26n-seg-torch", *asked)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        [entry] = [name for name in archive.namelist() if name.endswith("/camflow.json")]
        known = json.loads(archive.read(entry))
    assert known["classes"] == {"0": "a red car", "1": "dog"} and known["task"] == "detection"


def test_without_the_library_it_is_said_what_to_install():
    assert importlib.util.find_spec("ultralytics") is None, "it is no part of the environment"
    environment = {**os.environ, "PYTHONPATH": python_path(PACKAGES)}
    command = [sys.executable, "-m", "camflow.export", "fiftyone:yolo11n-coco-torch", "--weights", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0 and "pip install ultralytics" in done.stderr


def test_what_one_level_scores_is_not_taken_back_through_the_others(camflow, database, environment, theirs, tmp_path):
    """Without `--exact` a gradient ends where it is zero everywhere: the heatmaps are the same."""
    weights, model = own("yolo11n.yaml", theirs, environment, tmp_path)
    image = detectors.picture(tmp_path / "image.png", detectors.SIDE)
    (tmp_path / "job.json").write_text(json.dumps({"image": str(image), "channel": 16, "out": str(tmp_path / "wanted.npy")}))
    boxes = np.array(theirs("layercam", weights, tmp_path / "job.json")["boxes"]).clip(0, 1)
    sizes = (boxes[:, 2:] - boxes[:, :2]).min(1)
    # Small ones are of the first level, large ones of the last.
    chosen = boxes[np.argsort(sizes)[np.linspace(len(sizes) // 3, len(sizes) - 1, 9).astype(int)]]
    dataset = detectors.dataset_of("levels", [image], chosen.tolist(), "dog")
    try:
        maps = []
        for flags in (["--exact"], ["--overwrite"]):
            asked = ["--target", "labels:truth", "--class", "dog", "--per-detection", "--npy", "f32", "--device", "cpu", *flags]
            camflow("annotate", "--dataset", dataset.name, "--model", model, "--out", tmp_path / "maps", *asked)
            dataset.reload()
            (field,) = (name for name in dataset.get_field_schema() if name.endswith("_detections"))
            maps.append({one.id: load(one) for one in dataset.first()[field].detections})
    finally:
        dataset.delete()
    exact, other = maps
    assert exact.keys() == other.keys() and len(exact) >= 5
    # Folded batch norms move them, too; a level that was left out would move them by tenths.
    assert max(np.abs(exact[key] - other[key]).max() for key in exact) < 1e-3
    # Some lie on a few cells of one level, others on all of the image.
    shares = [float((one > 0).mean()) for one in exact.values()]
    assert min(shares) < 0.05 and max(shares) > 0.5, shares
