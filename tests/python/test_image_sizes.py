"""Models that take multiples of a number of pixels: what the exporter finds and adds, and what is said where it did not."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGES, python_path
from PIL import Image
from pytorch_grad_cam import GradCAM

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import silent_models

EXPORT = """
import sys, silent_models
from camflow.export import LoadedModel, export, sizes
model = silent_models.unet().eval()
loaded = LoadedModel(model, "unet", "unet", dict(model.camflow_metadata))
export(loaded, f"{sys.argv[1]}/unet.pt2")
sizes.MULTIPLES = ()
export(loaded, f"{sys.argv[1]}/old.pt2")
"""
SIZE = (43, 62)


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    """A model whose sides are multiples of 4, and what the exporter said of it."""
    folder = tmp_path_factory.mktemp("models")
    done = subprocess.run(
        [sys.executable, "-c", EXPORT, folder],
        check=False,
        env={"PYTHONPATH": python_path(PACKAGES, HERE)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "unet.pt2", done.stderr


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype="uint8")
    Image.fromarray(pixels).save(tmp_path / "x.png")
    return tmp_path / "x.png"


def metadata(path):
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/extra/camflow.json"))
        return json.loads(archive.read(name))


def test_images_are_padded_and_their_heatmaps_are_not(unet, camflow, picture, tmp_path):
    path, said = unet
    assert "multiples of 4" in said and "pad_multiple" in said
    assert [step["op"] for step in metadata(path)["preprocess"]] == ["pad_multiple", "normalize"]
    image = torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None].float() / 255
    padded = torch.nn.functional.pad(image, (0, 2, 0, 1))
    module = silent_models.unet().eval()
    with torch.no_grad():
        there = module(padded)[0].argmax(0) == 1
    # What the model sees in the padding is no part of the image.
    assert there[43:].any() or there[:, 62:].any()
    there[43:] = there[:, 62:] = False

    def target(logits):
        return (logits[1] * there).sum()

    with GradCAM(module, [module.middle]) as reference:
        wanted = reference(padded, [target])[0]
    for size, shape in (("input", SIZE), ("image", SIZE)):
        done = camflow(
            *(
                "explain",
                picture,
                "--model",
                path,
                "--class",
                "cat",
                "--layers",
                "middle",
                "--out",
                tmp_path / size,
                "--device",
                "cpu",
            ),
            *("--exact", "--size", size, "--format", "json"),
        )
        found = np.load(tmp_path / size / "x.cat.gradcam.layer_middle.npy")
        assert found.shape == shape
        assert np.abs(found - wanted[:43, :62]).max() < 1e-5 and wanted.max() > 0.9
        score = next(event["score"] for event in done.events if "score" in event)
        with torch.no_grad():
            assert score == pytest.approx(target(module(padded)[0]).item(), rel=1e-4)


def test_a_model_without_the_step_says_what_it_takes(unet, camflow, picture, tmp_path):
    """As earlier exporters wrote it."""
    old = unet[0].with_name("old.pt2")
    assert [step["op"] for step in metadata(old)["preprocess"]] == ["normalize"]
    arguments = ("--model", old, "--class", "cat", "--out", tmp_path / "out", "--device", "cpu")
    said = camflow("explain", picture, *arguments, code=1).stderr
    assert "aten::cat" in said and "43 x 62 pixels" in said and "multiples of 4" in said and "pad_multiple" in said
    Image.open(picture).crop((0, 0, 60, 40)).save(tmp_path / "y.png")
    camflow("explain", tmp_path / "y.png", *arguments)
