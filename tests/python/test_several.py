"""Models of several inputs, of which all but the image are constants, and of several outputs, of which one is explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import several_models
from camflow.export import ExportError, load_model
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

MODELS = Path(several_models.__file__)
PIXELS = torch.randn(1, 3, 32, 40, generator=torch.Generator().manual_seed(0))


class OfImage(torch.nn.Module):
    """What pytorch_grad_cam is given: the model with all but the image fixed."""

    def __init__(self, model, call):
        super().__init__()
        self.model, self.call = model, call

    def forward(self, image):
        return self.call(self.model, image)


def heatmap(camflow, archive, folder) -> np.ndarray:
    np.save(folder / "tensor.npy", PIXELS.numpy())
    flags = ("--class", "b", "--target", "predicted", "--device", "cpu", "--exact", "--format", "json", "--out", folder / "out")
    done = camflow("explain", folder / "tensor.npy", "--model", archive, *flags)
    (file,) = [f for event in done.events if event["event"] == "heatmap" for f in event["files"] if f.endswith(".npy")]
    return np.load(file).squeeze()


def reference(model, call) -> np.ndarray:
    with GradCAM(model=OfImage(model, call), target_layers=[model.body]) as cam:
        return cam(input_tensor=PIXELS, targets=[ClassifierOutputTarget(1)])[0]


def test_inputs_beside_the_image_are_constants(camflow, export, tmp_path):
    np.save(tmp_path / "place.npy", np.array([3]))
    times = torch.tensor([0.25])

    def call(flip):
        return lambda model, image: model(times, image, torch.tensor([3]), flip)

    flags = ("--input", "time=[0.25]", "--input", f"place={tmp_path / 'place.npy'}")
    for archive, flip in (
        (export(f"{MODELS}:timed", *flags, "--input", "flip=true", inputs=(MODELS, tmp_path / "place.npy")), True),
        (export(f"{MODELS}:timed", *flags, inputs=(MODELS, tmp_path / "place.npy")), False),
        (export(f"{MODELS}:stated", inputs=(MODELS,)), True),
        (export(f"{MODELS}:stated", "--input", "flip=false", inputs=(MODELS,)), False),
    ):
        ours, theirs = heatmap(camflow, archive, tmp_path), reference(several_models.timed(), call(flip))
        assert np.abs(ours - theirs).max() < 1e-5 and theirs.max() > 0, (archive, flip)


def test_a_program_with_several_inputs_keeps_those_of_its_example(camflow, export, tmp_path):
    model = several_models.timed()
    example = torch.tensor([0.25, 0.25]), torch.zeros(2, 3, 32, 40), torch.tensor([3, 3])
    batch = torch.export.Dim("batch")
    torch.export.save(
        torch.export.export(model, example, dynamic_shapes={"time": {0: batch}, "image": {0: batch}, "place": {0: batch}}),
        tmp_path / "program.pt2",
    )
    archive = export(
        str(tmp_path / "program.pt2"), "--mean", "0.5", "--std", "0.25", "--classes", "a,b,c", inputs=(tmp_path / "program.pt2",)
    )
    theirs = reference(model, lambda model, image: model(torch.tensor([0.25]), image, torch.tensor([3])))
    np.save(tmp_path / "tensor.npy", PIXELS.numpy())
    camflow(
        "explain",
        tmp_path / "tensor.npy",
        "--model",
        archive,
        "--layers",
        "body",
        "--class",
        "b",
        "--device",
        "cpu",
        "--exact",
        "--out",
        tmp_path / "o",
    )
    (file,) = (tmp_path / "o").glob("*gradcam*.npy")
    assert np.abs(np.load(file).squeeze() - theirs).max() < 1e-5


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, ("takes 3 inputs (`time`, `image`, `place`)", "`--input NAME=VALUE`")),
        ({"tine": 1}, ("has no input `tine`", "`time`, `image`, `place`, `flip`")),
        ({"time": 1, "image": 2, "place": 3, "flip": 4}, ("leaves none for the image",)),
    ],
)
def test_inputs_that_do_not_fit_are_refused_by_name(inputs, words):
    with pytest.raises(ExportError) as caught:
        load_model(f"{MODELS}:timed", inputs=inputs)
    assert all(word in f"{caught.value} {caught.value.hint}" for word in words), caught.value


@pytest.mark.parametrize(("output", "key"), [("fine", "fine"), ("1", "fine"), ("coarse", "coarse"), (None, "coarse")])
def test_the_output_that_is_named_is_explained(camflow, export, output, key, tmp_path):
    archive = export(f"{MODELS}:outputs", *(("--output", output) if output else ()), inputs=(MODELS,))
    theirs = reference(several_models.outputs(), lambda model, image: model(image)[key])
    assert np.abs(heatmap(camflow, archive, tmp_path) - theirs).max() < 1e-5
