"""Detectors of Ultralytics, which people install for themselves: what they give, and heatmaps, beside the library's own results."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from camflow import load
from conftest import ROOT
from PIL import Image

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo

VERSION = "8.4.190"
SIDE = 640


@pytest.fixture(scope="module")
def environment(cache, tmp_path_factory) -> dict[str, str]:
    """Where Python finds the library: in a folder of the tests' own, as it is AGPL and nothing of camflow needs it."""
    packages = cache / f"ultralytics-{VERSION}"
    # Several processes may run tests, and a folder that is there is whole.
    with (cache / f"{packages.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not packages.is_dir():
            building = cache / f"{packages.name}.building"
            shutil.rmtree(building, ignore_errors=True)
            wanted = [f"ultralytics=={VERSION}", "ultralytics-thop", "py-cpuinfo"]
            install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(building), *wanted]
            subprocess.run(install, check=True, timeout=600)
            building.rename(packages)
    settings = {"YOLO_CONFIG_DIR": str(tmp_path_factory.mktemp("settings")), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    return {**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(ROOT / "python"), str(packages)])}


@pytest.fixture(scope="module")
def theirs(environment):
    def run(*arguments) -> dict:
        command = [sys.executable, Path(__file__).with_name("ultralytics_reference.py"), *arguments]
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, env=environment, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


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
        ("rtdetr-l.yaml",),
    ],
    ids=lambda arguments: "".join(arguments).removesuffix(".yaml"),
)
def test_predictions_are_those_of_the_library(theirs, arguments):
    found = theirs("outputs", *arguments)
    assert found["num_compared"] > 50 and found["boxes"] < 1e-4 and found["scores"] < 1e-6


@pytest.mark.parametrize("settings", ["yolov8n.yaml", "rtdetr-l.yaml"])
def test_heatmaps_are_layercam_of_the_levels_by_their_maximum(camflow, database, environment, theirs, tmp_path, settings):
    weights = tmp_path / settings.replace("-l.yaml", "-own.pt").replace(".yaml", "-own.pt")
    theirs("save", settings, weights)
    model = tmp_path / "model.pt2"
    command = [sys.executable, "-m", "camflow.export", f"ultralytics:{weights}", "--out", model]
    done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    coarse = np.random.default_rng(3).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(tmp_path / "image.png")
    job = {"image": str(tmp_path / "image.png"), "channel": 16, "out": str(tmp_path / "wanted.npy")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    boxes = np.array(theirs("layercam", weights, tmp_path / "job.json")["boxes"]).clip(0, 1)
    # Two that are not small, and far apart.
    sizes = (boxes[:, 2:] - boxes[:, :2]).min(1)
    first = int(np.argmax(np.where(boxes[:, 2] < 0.6, sizes, 0)))
    second = int(np.argmax(np.where(boxes[:, 0] > 0.4, sizes, 0)))
    wanted = [boxes[first].tolist(), boxes[second].tolist()]
    (tmp_path / "job.json").write_text(json.dumps({**job, "wanted": wanted}))
    reference = theirs("layercam", weights, tmp_path / "job.json")
    assert len(reference["meant"]) == 2 and min(reference["largest"]) > 0.5, reference

    dataset = fo.Dataset(f"ultralytics-{settings}", persistent=True)
    try:
        detections = [
            fo.Detection(label="dog", bounding_box=[left, top, right - left, bottom - top]) for left, top, right, bottom in wanted
        ]
        dataset.add_sample(fo.Sample(str(tmp_path / "image.png"), truth=fo.Detections(detections=detections)))
        asked = ["--target", "labels:truth", "--class", "dog", "--npy", "f32", "--exact", "--device", "cpu"]
        camflow("annotate", "--dataset", dataset.name, "--model", model, "--out", tmp_path / "maps", *asked)
        dataset.reload()
        (field,) = (name for name in dataset.get_field_schema() if name.startswith("dog_"))
        label = dataset.first()[field]
        assert label.score == pytest.approx(reference["score"], rel=1e-4)
        assert np.abs(load(label) - np.load(tmp_path / "wanted.npy")).max() < 1e-4
    finally:
        dataset.delete()


def test_without_the_library_it_is_said_what_to_install():
    assert importlib.util.find_spec("ultralytics") is None, "it is no part of the environment"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "camflow.export", "fiftyone:yolo11n-coco-torch", "--weights", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0 and "pip install ultralytics" in done.stderr
