"""Models of one class: outputs of one channel or of none, one name or two, against PyTorch and pytorch_grad_cam."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow.export import ExportError, LoadedModel, export
from conftest import PACKAGES, python_path
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import BinaryClassifierOutputTarget

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import silent_models

EXPORT = """
import sys, silent_models
from camflow.export import LoadedModel, export
for name in sys.argv[2:]:
    model = getattr(silent_models, name)().eval()
    metadata = {key: value for key, value in model.camflow_metadata.items() if value != "other"}
    loaded = LoadedModel(model, name, name, metadata)
    export(loaded, f"{sys.argv[1]}/{name}.pt2", size=(48, 64))
"""
NAMES = (
    "tumour",
    "named_tumour",
    "named_healthy",
    "squeezed",
    "squeezed_whole",
    "pooled",
    "rounded_score",
    "flat_map",
    "flat_map_of_logits",
    "three_names",
    "detached",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """All of them as archives, made by one process; the folder, and what it said."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-c", EXPORT, str(folder), *NAMES]
    done = subprocess.run(command, check=False, env={"PYTHONPATH": python_path(PACKAGES, HERE)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Pictures of several sizes; their paths."""
    folder = tmp_path_factory.mktemp("pictures")
    for n, size in enumerate([(48, 64), (48, 64), (40, 56)]):
        pixels = np.random.default_rng(n).integers(0, 255, (*size, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return sorted(folder.glob("*.png"))


@pytest.fixture
def explain(camflow, models, pictures, tmp_path):
    def run(model, *arguments, code=0, picture=0):
        return camflow(
            "explain",
            pictures[picture],
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


@pytest.fixture
def dataset(database, pictures, request):
    dataset = fo.Dataset(request.node.name, persistent=True)
    names = ("healthy", "tumour", "healthy")
    dataset.add_samples(
        [fo.Sample(str(path), state=fo.Classification(label=name)) for path, name in zip(pictures, names)], progress=False
    )
    yield dataset
    dataset.delete()


@pytest.fixture
def annotate(camflow, models, dataset, tmp_path):
    def run(model, *arguments, code=0):
        done = camflow(
            "annotate",
            "--dataset",
            dataset.name,
            "--model",
            models / f"{model}.pt2",
            "--out",
            tmp_path / "maps",
            "--device",
            "cpu",
            "--format",
            "json",
            *arguments,
            code=code,
        )
        dataset.reload()
        return done

    return run


def shown(picture):
    return torch.from_numpy(np.array(Image.open(picture))).permute(2, 0, 1)[None].float() / 255


def output(model, picture):
    with torch.no_grad():
        return getattr(silent_models, model)().eval()(shown(picture))


def scores(done):
    return [(event["class"], pytest.approx(event["score"], rel=1e-3)) for event in done.events if "score" in event]


def notices(done):
    return "\n".join(event["message"] for event in done.events if event["event"] in ("notice", "warning"))


def test_the_exporter_says_what_two_names_stand_for(models):
    said = (models / "said").read_text()
    assert "stands for `tumour` where a sigmoid of it is above 0.5, and for `healthy` elsewhere" in said
    assert "2 class names" not in said and "3 class names for 1 channels" in said


@pytest.mark.parametrize("picture", [0, 2])
@pytest.mark.parametrize("model", ["squeezed", "squeezed_whole", "pooled"])
def test_an_output_without_channels_is_one(explain, pictures, model, picture):
    logit = output(model, pictures[picture]).item()
    assert logit > 0
    assert scores(explain(model, "--target", "top", picture=picture)) == [("tumour", logit)]
    assert scores(explain(model, "--class", "tumour", picture=picture)) == [("tumour", logit)]
    done = explain(model, "--class", "healthy", picture=picture, code=1)
    assert "does not predict `healthy`" in notices(done)


def test_a_batch_of_outputs_without_channels(annotate, dataset, pictures):
    for model in ("squeezed", "squeezed_whole", "pooled"):
        annotate(model, "--target", "top", "--field", f"{model}_{{class}}", "--batch-size", "2")
        found = dataset.values(f"{model}_top.score")
        assert found == pytest.approx([output(model, picture).item() for picture in pictures], rel=1e-4)


def test_heatmaps_that_are_zero_everywhere_are_counted(annotate, dataset):
    done = annotate("rounded_score", "--target", "top", "--field", "own")
    counts = next(event for event in done.events if event["event"] == "run_finished")
    assert (counts["num_heatmaps"], counts["num_empty"]) == (3, 3) and not any(dataset.values("own.energy"))
    done = annotate("squeezed", "--target", "top", "--field", "other")
    assert next(event for event in done.events if event["event"] == "run_finished")["num_empty"] == 0


@pytest.mark.parametrize(("model", "words"), [("pooled_once", "[2, 1, 1]"), ("classes_last", "with the classes last: 2")])
def test_an_output_in_another_order_is_refused_at_export(tmp_path, model, words):
    module = getattr(silent_models, model)().eval()
    loaded = LoadedModel(module, model, model, dict(module.camflow_metadata))
    with pytest.raises(ExportError) as refused:
        export(loaded, tmp_path / "model.pt2", size=(48, 64), static_size=True)
    assert words in str(refused.value) and "wrap the model" in refused.value.hint


def test_a_map_without_channels_is_one(explain, pictures, tmp_path):
    for model, threshold, negated in (("flat_map", 0.5, lambda x: 1 - x), ("flat_map_of_logits", 0.0, lambda x: -x)):
        values = output(model, pictures[0])[0]
        there = values > threshold
        assert 0 < there.sum() < there.numel()
        classes = "tissue,polyp"
        wanted = [("tissue", negated(values)[~there].sum().item()), ("polyp", values[there].sum().item())]
        assert scores(explain(model, "--class", classes)) == wanted
        most = wanted[int(there.sum() > there.numel() / 2)]
        assert scores(explain(model, "--target", "top")) == [most]
        mask = np.zeros((48, 64), "uint8")
        mask[10:20, 5:50] = 255
        Image.fromarray(mask).save(tmp_path / "mask.png")
        marked = torch.from_numpy(mask > 0)
        wanted = [("tissue", negated(values)[~marked].sum().item()), ("polyp", values[marked].sum().item())]
        assert scores(explain(model, "--class", classes, "--mask", tmp_path / "mask.png")) == wanted


@pytest.mark.parametrize(("model", "name", "category"), [("named_healthy", "healthy", 0), ("named_tumour", "tumour", 1)])
def test_the_negative_class_is_that_of_the_reference(explain, pictures, tmp_path, model, name, category):
    module = getattr(silent_models, model)().eval()
    logit = module(shown(pictures[0])).item()
    assert scores(explain(model, "--target", "top", "--exact")) == [(name, abs(logit))]
    explain(model, "--class", name, "--exact", "--layers", "neck")
    with GradCAM(module, [module.neck]) as reference:
        wanted = reference(shown(pictures[0]), [BinaryClassifierOutputTarget(category)])[0]
    found = np.load(tmp_path / "out" / f"0.{name}.gradcam.layer_neck.npy")
    assert wanted.max() > 0.5 and np.abs(found - wanted).max() < 1e-5


def test_labels_of_both_names_are_explained(annotate, dataset, pictures):
    annotate("named_tumour", "--target", "labels:state", "--field", "own")
    logits = [output("named_tumour", picture).item() for picture in pictures]
    wanted = [-logits[0], logits[1], -logits[2]]
    assert dataset.values("own.score") == pytest.approx(wanted, rel=1e-4)
    assert dataset.values("own.target_class") == ["healthy", "tumour", "healthy"]
    annotate("named_tumour", "--target", "labels:state", "--class", "healthy", "--field", "{class}")
    healthy = dataset.values("healthy.score")
    assert healthy[1] is None and healthy[::2] == pytest.approx(wanted[::2], rel=1e-4)


def test_labels_of_a_name_that_the_model_lacks_are_told(annotate, explain):
    said = notices(annotate("tumour", "--target", "labels:state"))
    assert "one channel, for `tumour`" in said and "`healthy`" in said and "two names" in said
    error = explain("tumour", "--class", "healthy", code=2).stderr
    assert "no class `healthy`" in error and "two names, the negative one first" in error


def test_more_names_than_two_are_refused(explain, annotate):
    for done in (explain("three_names", "--class", "cat", code=2), annotate("three_names", "--target", "top", code=2)):
        assert "names 3 classes" in done.stderr and "one channel" in done.stderr


def test_faithfulness_is_that_of_a_sigmoid(annotate, dataset, pictures):
    annotate("named_tumour", "--target", "labels:state", "--faithfulness", "--field", "own")
    probabilities = [torch.sigmoid(output("named_tumour", picture)).item() for picture in pictures]
    wanted = [1 - probabilities[0], probabilities[1], 1 - probabilities[2]]
    assert dataset.values("own.confidence") == pytest.approx(wanted, rel=1e-4)
    for measure in ("deletion_auc", "insertion_auc"):
        assert all(0 < value < 1 for value in dataset.values(f"own.{measure}"))
    # Removing everything leaves the confidence in an image of zeros.
    assert any(abs(value) > 1e-4 for value in dataset.values("own.road"))


def test_a_dry_run_refuses_a_layer_without_influence(annotate):
    error = annotate("detached", "--target", "top", "--layers", "backbone", "--dry-run", code=2).stderr
    assert "node `detach`" in error and "hint: " in error
