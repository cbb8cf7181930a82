"""Models whose gradient goes nowhere, or whose output has one channel: an error that says so, or PyTorch's numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from camflow.export import ExportError, LoadedModel, export
from conftest import PACKAGES, python_path
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

HERE = Path(__file__).resolve().parent
MODELS = HERE / "silent_models.py"
sys.path.insert(0, str(HERE))
import silent_models

EXPORT = """
import sys, silent_models
from camflow.export import LoadedModel, export
for name in sys.argv[2:]:
    model = getattr(silent_models, name)().eval()
    loaded = LoadedModel(model, name, name, dict(model.camflow_metadata))
    export(loaded, f"{sys.argv[1]}/{name}.pt2", size=(48, 64), static_size=True)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """All of them as archives, made by one process; the folder."""
    folder = tmp_path_factory.mktemp("models")
    names = [
        "detached",
        "rounded",
        "by_shape",
        "constant",
        "classes",
        "behind",
        "dead_channel",
        "quantised_by_detach",
        "steps",
        "two",
        "misled",
        "one_channel",
        "never",
        "probabilities",
        "tumour",
        "healthy",
        "aside",
    ]
    command = [sys.executable, "-c", EXPORT, str(folder), *names]
    subprocess.run(command, check=True, env={"PYTHONPATH": python_path(PACKAGES, HERE)})
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A picture of the models' size; its path and what the models are given of it."""
    path = tmp_path_factory.mktemp("picture") / "x.png"
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype="uint8")
    Image.fromarray(pixels).save(path)
    return path, torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture
def explain(camflow, models, picture, tmp_path):
    def run(model, *arguments, code=0):
        return camflow(
            "explain",
            picture[0],
            "--model",
            models / f"{model}.pt2",
            "--out",
            tmp_path / "out",
            "--device",
            "cpu",
            "--format",
            "json",
            *arguments,
            code=code,
        )

    return run


GRADCAM = ["gradcam", "eigencam,finercam,shapleycam"]


@pytest.mark.parametrize("methods", GRADCAM)
@pytest.mark.parametrize(
    ("model", "layers", "words"),
    [
        ("detached", "backbone", ["node `detach`", "`neck`"]),
        ("detached", "neck,backbone.0", ["layer `backbone.0`", "node `detach`"]),
        ("rounded", "backbone", ["whole numbers", "`neck`"]),
        ("by_shape", "backbone", ["nothing flows", "`neck`"]),
        ("constant", "backbone", ["nothing flows", "no layer of this model has a gradient"]),
        ("classes", "backbone", ["node `argmax`, which gives whole numbers", "no layer of this model"]),
        ("behind", "aux,after", ["layer `aux` has no influence on the model's output `out`", "layer `after`"]),
    ],
)
def test_a_layer_without_influence_is_refused_before_the_first_image(explain, model, layers, words, methods):
    said = explain(model, "--class", "0", "--layers", layers, "--method", methods, code=2)
    for word in words:
        assert word in said.stderr, said.stderr


def test_methods_without_gradients_take_such_layers(explain):
    explain("detached", "--class", "ant", "--layers", "backbone", "--method", "eigencam,scorecam,ablationcam")
    said = explain("two", "--class", "ant", "--layers", "aux_classifier", "--method", "ablationcam", code=2)
    assert "no influence" in said.stderr


def test_fullgrad_needs_a_gradient_of_the_image_alone(explain):
    said = explain("detached", "--class", "ant", "--method", "fullgrad", code=2)
    assert "the image has no influence" in said.stderr and "hint: " in said.stderr
    explain("behind", "--class", "ant", "--method", "fullgrad", "--layers", "aux")


def test_default_layers_feed_the_output(explain, camflow, models):
    explain("two", "--class", "bee")
    explain("behind", "--class", "bee")
    shown = camflow("inspect", models / "two.pt2").stdout
    assert "1      classifier " in shown and "aux_classifier" not in shown
    assert "no influence on the output" in camflow("inspect", models / "two.pt2", "--all").stdout


def test_a_default_without_influence_is_replaced_and_told(explain, tmp_path):
    """As archives of earlier exporters name it, and people in `camflow_metadata`."""
    done = explain("misled", "--class", "bee")
    said = done.stdout + done.stderr
    assert "`2`" in said and "no influence" in said and "`1` is explained instead" in said
    assert list((tmp_path / "out").glob("*layer_1*")) and not list((tmp_path / "out").glob("*layer_2*"))


def test_a_gradient_of_zero_is_a_map_of_zeros(explain, tmp_path):
    explain("dead_channel", "--class", "bee,cat")
    for name in ("bee", "cat"):
        assert not np.load(tmp_path / "out" / f"x.{name}.gradcam.layer_1.npy").any()
    done = explain("steps", "--class", "bee", "--layers", "backbone,neck", "--method", "gradcam,eigencam")
    (told,) = [text for event in done.events if "zero everywhere" in (text := event.get("message", ""))]
    assert "`bee` is zero everywhere by gradcam at layer backbone: " in told and "\nhint: " in told, told


def test_a_backward_of_the_models_own_is_refused(tmp_path):
    """A graph has what autograd makes of its operators: other heatmaps than PyTorch's, without a word."""
    for name, words in (("quantised", "an `autograd.Function` (`StraightThrough`)"), ("hooked", "or a hook")):
        model = getattr(silent_models, name)().eval()
        loaded = LoadedModel(model, name, name, dict(model.camflow_metadata))
        with pytest.raises(ExportError, match="the gradient at the image is another one") as refused:
            export(loaded, tmp_path / "model.pt2", size=(48, 64), static_size=True)
        assert words in str(refused.value) and "detach" in refused.value.hint
        assert not [*tmp_path.iterdir()]


def test_what_it_means_can_be_written_into_the_forward(explain, picture, tmp_path):
    explain("quantised_by_detach", "--class", "bee", "--layers", "backbone", "--exact")
    model = silent_models.quantised().eval()
    with GradCAM(model, [model.backbone]) as reference:
        wanted = reference(picture[1], [ClassifierOutputTarget(1)])[0]
    found = np.load(tmp_path / "out" / "x.bee.gradcam.layer_backbone.npy")
    assert wanted.max() > 0.5 and np.abs(found - wanted).max() < 1e-5


def test_an_identity_has_the_gradient_of_the_value_that_it_hands_on(explain, picture, tmp_path):
    """Of all that reads the value, as PyTorch's hooks have it, also what does not come through the Identity."""
    explain("aside", "--class", "bee", "--layers", "dropout", "--exact")
    model = silent_models.aside().eval()
    with GradCAM(model, [model.dropout]) as reference:
        wanted = reference(picture[1], [ClassifierOutputTarget(1)])[0]
    found = np.load(tmp_path / "out" / "x.bee.gradcam.layer_dropout.npy")
    assert wanted.max() > 0.5 and np.abs(found - wanted).max() < 1e-5


def scores(done):
    return [event["score"] for event in done.events if "score" in event]


def test_the_object_of_one_channel_is_what_the_mask_marks(explain, picture, tmp_path):
    marked = np.zeros((48, 64), "uint8")
    marked[10:30, 20:50] = 1
    with torch.no_grad():
        wanted = silent_models.one_channel().eval()(picture[1])[0, 0][torch.from_numpy(marked).bool()].sum().item()
    for value in (1, 255, 7):
        Image.fromarray(marked * value).save(tmp_path / "mask.png")
        done = explain("one_channel", "--class", "object", "--mask", tmp_path / "mask.png")
        assert scores(done) == pytest.approx([wanted], rel=1e-4)
        assert "one channel" in done.stdout + done.stderr
    marked[0, 0] = 2
    Image.fromarray(marked).save(tmp_path / "mask.png")
    said = explain("one_channel", "--class", "object", "--mask", tmp_path / "mask.png", code=1)
    assert "the values 1, 2 beside 0" in said.stdout + said.stderr


@pytest.mark.parametrize("target", [["--target", "top"], ["--class", "all"]])
def test_one_channel_predicts_by_its_sign(explain, picture, target):
    with torch.no_grad():
        logits = silent_models.one_channel().eval()(picture[1])
        sigmoid = silent_models.probabilities().eval()(picture[1])
        tumour = silent_models.tumour().eval()(picture[1])
        assert silent_models.never().eval()(picture[1]).max() < 0 and silent_models.healthy().eval()(picture[1]) < 0 < tumour
    assert scores(explain("one_channel", *target)) == pytest.approx([logits[logits > 0].sum().item()], rel=1e-4)
    assert scores(explain("probabilities", *target)) == pytest.approx([sigmoid[sigmoid > 0.5].sum().item()], rel=1e-4)
    assert scores(explain("tumour", *target)) == pytest.approx([tumour.item()], rel=1e-4)
    for model in ("never", "healthy"):
        done = explain(model, *target, code=1)
        assert not scores(done) and "class not in label" in done.stdout + done.stderr
