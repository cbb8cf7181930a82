"""What the tests of detectors' own libraries share: their references, and heatmaps beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image


def reference(script: str, environment: dict[str, str]) -> Callable[..., dict]:
    """Runs a script of this folder, whose last line is a JSON object."""

    def run(*arguments) -> dict:
        command = [sys.executable, Path(__file__).with_name(script), *arguments]
        done = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True, env=environment, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


def export(ref: str, folder: Path, environment: dict[str, str]) -> Path:
    model = folder / "model.pt2"
    command = [sys.executable, "-m", "camflow.export", ref, "--out", str(model)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "class names for" not in done.stderr
    return model


def compare_heatmaps(
    camflow, theirs: Callable[..., dict], weights: Path, model: Path, folder: Path, *, side: int, channel: int, label: str
) -> None:
    """The heatmap of two boxes, of a picture with the model's own size, beside LayerCAM of the library's network."""
    coarse = np.random.default_rng(3).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(folder / "image.png")
    job = {"image": str(folder / "image.png"), "channel": channel, "out": str(folder / "wanted.npy")}
    (folder / "job.json").write_text(json.dumps(job))
    boxes = np.array(theirs("layercam", weights, folder / "job.json")["boxes"]).clip(0, 1)
    # Two that are not small, and far apart.
    sizes = (boxes[:, 2:] - boxes[:, :2]).min(1)
    first = int(np.argmax(np.where(boxes[:, 2] < 0.6, sizes, 0)))
    second = int(np.argmax(np.where(boxes[:, 0] > 0.4, sizes, 0)))
    wanted = [boxes[first].tolist(), boxes[second].tolist()]
    (folder / "job.json").write_text(json.dumps({**job, "wanted": wanted}))
    expected = theirs("layercam", weights, folder / "job.json")
    assert len(expected["meant"]) == 2 and min(expected["largest"]) > 0.5, expected

    dataset = fo.Dataset(f"detector-{weights.stem}", persistent=True)
    try:
        detections = [
            fo.Detection(label=label, bounding_box=[left, top, right - left, bottom - top]) for left, top, right, bottom in wanted
        ]
        dataset.add_sample(fo.Sample(str(folder / "image.png"), truth=fo.Detections(detections=detections)))
        asked = ["--target", "labels:truth", "--class", label, "--npy", "f32", "--exact", "--device", "cpu"]
        camflow("annotate", "--dataset", dataset.name, "--model", model, "--out", folder / "maps", *asked)
        dataset.reload()
        (field,) = (name for name in dataset.get_field_schema() if name.startswith(f"{label}_"))
        found = dataset.first()[field]
        assert found.score == pytest.approx(expected["score"], rel=1e-4)
        assert np.abs(load(found) - np.load(folder / "wanted.npy")).max() < 1e-4
    finally:
        dataset.delete()
