"""RF-DETR, which people install for themselves: what it gives, and heatmaps, beside the library's own results."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import detectors
import numpy as np
import pytest
from conftest import PACKAGES, python_path

VERSION = "1.11.2"
SIDE = 384  # of RF-DETR Nano


@pytest.fixture(scope="module")
def environment(cache) -> dict[str, str]:
    packages = [f"rfdetr=={VERSION}", "supervision==0.31.2", "pyDeprecate==0.14.0", "defusedxml==0.7.1"]
    folder = detectors.installed(cache / f"rfdetr-{VERSION}", packages)
    offline = {"HF_HUB_OFFLINE": "1"}
    return {**os.environ, **offline, "PYTHONPATH": python_path(PACKAGES, folder)}


@pytest.fixture(scope="module")
def theirs(environment):
    with detectors.reference("rfdetr_reference.py", environment) as asked:
        yield asked


@pytest.mark.parametrize(
    "arguments", [("RFDETRNano",), ("RFDETRNano", "3"), ("RFDETRSegNano",)], ids=lambda arguments: arguments[-1]
)
def test_predictions_are_those_of_the_library(theirs, arguments):
    found = theirs("outputs", *arguments)
    assert found["num_compared"] >= 100 and found["furthest"] < 1e-4
    # Channels of published models are COCO's numbers, others in the order of the names.
    assert found["num_names"] >= 3 and not found["wrong_names"], found


def test_heatmaps_of_a_checkpoint_are_layercam_of_what_the_head_is_given(camflow, database, environment, theirs, tmp_path):
    weights = tmp_path / "own.pth"
    theirs("save", weights)
    model, said = detectors.export(f"rfdetr:{weights}", tmp_path, environment)
    assert "class names for" not in said
    (score, found), (wanted_score, wanted) = detectors.of_two_boxes(
        camflow, theirs, weights, model, tmp_path, side=SIDE, channel=1, label="dog"
    )
    assert score == pytest.approx(wanted_score, rel=1e-4)
    assert np.abs(found - wanted).max() < 1e-4


@pytest.mark.long
def test_one_of_the_zoo_by_name(environment, tmp_path):
    command = [sys.executable, "-m", "camflow.export", "fiftyone:rfdetr-seg-nano-coco-torch", "--weights", "none"]
    command += ["--out", str(tmp_path / "model.pt2")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0 and "class names for" not in done.stderr, done.stderr
    assert "detection" in done.stdout and "backbone.0.projector.stages.0" in done.stdout, done.stdout


def test_a_class_that_it_does_not_have_is_told_with_the_nearest(environment):
    command = [sys.executable, "-m", "camflow.export", "rfdetr:RFDETRNani", "--weights", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 2 and "`RFDETRNano`" in done.stderr, done.stderr


def test_without_the_library_it_is_said_what_to_install():
    assert importlib.util.find_spec("rfdetr") is None, "it is no part of the environment"
    environment = {**os.environ, "PYTHONPATH": python_path(PACKAGES)}
    command = [sys.executable, "-m", "camflow.export", "fiftyone:rfdetr-nano-coco-torch", "--weights", "none"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode != 0 and "pip install rfdetr" in done.stderr
