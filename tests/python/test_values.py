"""Outputs that are no scores of classes: components of regressions, and similarities of embeddings, against pytorch_grad_cam."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from conftest import PACKAGES, python_path
from PIL import Image
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, RawScoresOutputTarget, SemanticSegmentationTarget

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import value_models

EXPORT = """
import sys, value_models
from camflow.export import LoadedModel, export
for name in sys.argv[2:]:
    model = getattr(value_models, name)()
    export(LoadedModel(model, name, name, dict(model.camflow_metadata)), f"{sys.argv[1]}/{name}.pt2", size=(48, 64))
"""
NAMES = ("measurements", "age", "depth", "embedding", "scores", "one_score")
METHODS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "scorecam": ScoreCAM, "ablationcam": AblationCAM}


class Similarity:
    """The cosine of the angle to a reference, as in pytorch_grad_cam's tutorial on embeddings."""

    def __init__(self, reference):
        self.reference = torch.as_tensor(reference)

    def __call__(self, output):
        return torch.nn.CosineSimilarity(dim=-1)(output, self.reference.to(output.dtype))


class Difference(Similarity):
    """What is missing to 1."""

    def __call__(self, output):
        return 1 - super().__call__(output)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """All of them as archives; the folder."""
    folder = tmp_path_factory.mktemp("models")
    command = [sys.executable, "-c", EXPORT, str(folder), *NAMES]
    done = subprocess.run(command, check=False, env={"PYTHONPATH": python_path(PACKAGES, HERE)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images f32 [3, 3, 48, 64] as a file."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, torch.randn(3, 3, 48, 64, generator=torch.Generator().manual_seed(1)).numpy())
    return path


def explained(camflow, model, images, out, *flags) -> tuple[dict, list]:
    """Heatmaps by (sample, class, method), and the events."""
    done = camflow("explain", images, "--model", model, "--out", out, "--exact", "--layers", "layer2", "--format", "json", *flags)
    events = [event for event in done.events if event["event"] == "heatmap"]
    return {(int(e["sample"].rpartition(".")[2]), e["class"], e["method"]): np.load(e["files"][0]) for e in events}, events


def assert_like(found, module, images, targets):
    """The maps of all methods are pytorch_grad_cam's for the targets of each class."""
    pixels = torch.from_numpy(np.load(images))
    seen = 0
    for (sample, name, method), heatmap in found.items():
        with METHODS[method](model=module, target_layers=[module.layer2]) as cam:
            expected = cam(input_tensor=pixels[sample : sample + 1], targets=[targets[name]])[0]
        assert np.abs(heatmap - expected).max() < 1e-5, (sample, name, method)
        seen += heatmap.max() > 0
    assert seen >= len(found) // 3, "maps without anything in them would all be alike"


ALL = ("--method", ",".join(METHODS))


def test_components_are_what_pytorch_grad_cam_gives(camflow, models, images, tmp_path):
    found, events = explained(
        camflow, models / "measurements.pt2", images, tmp_path, "--target", "component", "--class", "age,2", *ALL
    )
    assert len(found) == 3 * 2 * 4
    module = value_models.measurements()
    assert_like(found, module, images, {"age": ClassifierOutputTarget(0), "height": ClassifierOutputTarget(2)})
    output = module(torch.from_numpy(np.load(images))).detach()
    for event in events:
        sample = int(event["sample"].rpartition(".")[2])
        assert event["score"] == pytest.approx(float(output[sample, event["channel"]]), abs=1e-5)
        assert event["confidence"] is None, "a number of a regression is no probability"


def test_of_one_number_there_is_nothing_to_name(camflow, models, images, tmp_path):
    found, events = explained(camflow, models / "age.pt2", images, tmp_path, "--target", "component", *ALL)
    assert {name for _, name, _ in found} == {"age"}
    module = value_models.age()
    module.squeezed = False
    assert_like(found, module, images, {"age": RawScoresOutputTarget()})
    numbers = module(torch.from_numpy(np.load(images))).detach().flatten().tolist()
    assert [event["score"] for event in events if event["method"] == "gradcam"] == pytest.approx(numbers, abs=1e-5)


def test_a_number_of_a_pixel(camflow, models, images, tmp_path):
    found, _ = explained(camflow, models / "depth.pt2", images, tmp_path, "--target", "pixel=30,20", "--class", "0", *ALL)
    module = value_models.depth()
    mask = np.zeros((6, 8), np.float32)
    mask[20 * 6 // 48, 30 * 8 // 64] = 1
    assert_like(found, module, images, {"0": SemanticSegmentationTarget(0, mask)})


@pytest.mark.parametrize(("word", "target"), [("similar", Similarity), ("different", Difference)])
def test_similarity_to_an_embedding_is_what_the_tutorial_has(camflow, models, images, tmp_path, word, target):
    reference = torch.randn(12, generator=torch.Generator().manual_seed(2)).numpy()
    np.save(tmp_path / "concept.npy", reference)
    flags = ("--target", f"{word}={tmp_path / 'concept.npy'}", *ALL)
    found, events = explained(camflow, models / "embedding.pt2", images, tmp_path / "maps", *flags)
    assert {name for _, name, _ in found} == {"concept"}
    module = value_models.embedding()
    assert_like(found, module, images, {"concept": target(reference)})
    scores = target(reference)(module(torch.from_numpy(np.load(images))))
    assert [e["score"] for e in events if e["method"] == "gradcam"] == pytest.approx(scores.tolist(), abs=1e-5)


def test_the_reference_may_be_an_image(camflow, models, tmp_path):
    paths = []
    for n in range(2):
        paths.append(tmp_path / f"{n}.png")
        Image.fromarray(np.random.default_rng(n).integers(0, 255, (48, 64, 3), np.uint8)).save(paths[-1])
    pixels = np.stack([np.asarray(Image.open(path), np.float32).transpose(2, 0, 1) / 255 for path in paths])
    np.save(tmp_path / "image.npy", (pixels[1:] - 0.5) / 0.25)
    found, events = explained(
        camflow, models / "embedding.pt2", tmp_path / "image.npy", tmp_path / "maps", "--target", f"similar={paths[0]}"
    )
    module = value_models.embedding()
    with torch.no_grad():
        reference = module(torch.from_numpy((pixels[:1] - 0.5) / 0.25))[0].numpy()
    assert_like(found, module, tmp_path / "image.npy", {"0": Similarity(reference)})
    flags = ("--target", f"similar={paths[1]}", "--layers", "auto", "--format", "json", "--out", tmp_path / "same")
    itself = camflow("explain", paths[1], "--model", models / "embedding.pt2", *flags).events
    assert [event["score"] for event in itself if event["event"] == "heatmap"] == pytest.approx([1])
    assert events[0]["score"] < 1


REFUSED = {
    "predicted of a regression": ("measurements", ["--target", "predicted", "--class", "age"], "numbers, not scores of classes"),
    "nothing named": ("measurements", [], "explain one as it is: `--target component`"),
    "several components": ("measurements", ["--target", "component"], "3 numbers\nhint: say which with `--class`"),
    "no such component": ("measurements", ["--target", "component", "--class", "9"], "there is no class `9`"),
    "a pixel of one number": ("age", ["--target", "pixel=1,1", "--class", "0"], "use `--target component`"),
    "a component of a map": ("depth", ["--target", "component"], "name the pixel"),
    "top of a map": ("depth", [], "name a pixel"),
    "classes of embeddings": ("embedding", ["--target", "predicted", "--class", "0"], "embeddings, not scores of classes"),
    "similar scores": ("scores", ["--target", "similar={}/short.npy"], "no embeddings, which images could be compared by"),
    "one score": ("one_score", ["--target", "component"], "which is predicted or not"),
    "short": (
        "embedding",
        ["--target", "similar={}/short.npy"],
        "has 5 numbers, and the embeddings of model `embedding` have 12",
    ),
    "several": ("embedding", ["--target", "similar={}/several.npy"], "shape [3, 12], not one embedding"),
    "zeros": ("embedding", ["--target", "similar={}/zeros.npy"], "zeros alone"),
    "NaN": ("embedding", ["--target", "similar={}/nan.npy"], "infinities or NaN"),
    "no file": ("embedding", ["--target", "similar={}/none.npy"], "none.npy"),
    "with a class": ("embedding", ["--target", "similar={}/short.npy", "--class", "cat"], "takes no `--class cat`"),
    "a field": ("embedding", ["--target", "similar:animal", "--class", "cat"], "no labels without a dataset"),
    "component:": ("age", ["--target", "component:age"], "name it with `--class age`"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_model_does_not_give_is_refused_with_what_it_gives(camflow, models, images, tmp_path, case):
    arrays = {"short": np.ones(5), "several": np.ones((3, 12)), "zeros": np.zeros(12), "nan": np.full(12, np.nan)}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
    name, flags, said = REFUSED[case]
    flags = [flag.format(tmp_path) for flag in flags]
    done = camflow("explain", images, "--model", models / f"{name}.pt2", "--out", tmp_path / "maps", *flags, code=2)
    assert said in done.stderr, done.stderr
    assert not (tmp_path / "maps").exists()


@pytest.fixture
def animals(tiny_dataset):
    """Pictures of which a field says that they are of cats or dogs; none is of a hen."""
    label = lambda n: fo.Classification(label="dog" if n % 3 else "cat")  # noqa: E731
    return tiny_dataset(9, animal=label)


def annotate(camflow, models, dataset, out, *flags, code=0):
    arguments = ["annotate", "--dataset", dataset.name, "--model", models / "embedding.pt2", "--out", out, "--layers", "layer2"]
    done = camflow(*arguments, "--device", "cpu", "--format", "json", *flags, code=code)
    dataset.reload()
    return next((event for event in done.events if event["event"] == "run_finished"), None), done.stdout + done.stderr


def embedded(dataset):
    """The model's embeddings of the pictures by sample id: the tiny dataset's are resized, as camflow's Pillow does."""
    module = value_models.embedding()
    made = {}
    with torch.no_grad():
        for sample in dataset:
            pixels = np.asarray(Image.open(sample.filepath).convert("RGB").resize((64, 48), Image.BILINEAR), np.float32)
            pixels = torch.from_numpy(pixels.transpose(2, 0, 1) / 255)
            made[sample.id] = module((pixels[None] - 0.5) / 0.25)[0].numpy()
    return made


def test_a_dataset_is_compared_with_the_mean_of_a_class(camflow, models, animals, tmp_path):
    flags = ("--target", "similar:animal", "--class", "cat,dog", "--exact")
    counts, said = annotate(camflow, models, animals, tmp_path / "maps", *flags)
    assert counts["num_committed"] == 9 and "mean embedding of its first images, 100 at most: `cat` 3, `dog` 6" in said
    made = embedded(animals)
    for name in ("cat", "dog"):
        mean = np.mean([made[s.id] for s in animals if s.animal.label == name], axis=0)
        for sample in animals:
            found = sample[f"{name}_grad_layer_layer2"]
            assert found.target_class == name
            assert found.score == pytest.approx(float(Similarity(mean)(torch.from_numpy(made[sample.id]))), abs=2e-3)
    assert annotate(camflow, models, animals, tmp_path / "maps", *flags)[0]["skipped"] == {"up to date": 9}
    # one class more leaves the others as they are
    assert annotate(camflow, models, animals, tmp_path / "maps", *flags[:3], "dog", "--exact")[0]["skipped"] == {"up to date": 9}
    first = animals.first()
    first.animal.label = "dog"
    first.save()
    assert annotate(camflow, models, animals, tmp_path / "maps", *flags)[0]["num_committed"] == 9, "both means are others"
    refused = annotate(camflow, models, animals, tmp_path / "maps", *flags[:3], "hen", code=2)[1]
    assert "no sample of dataset" in refused and "the labels are `cat`, `dog`" in refused
    no_class = annotate(camflow, models, animals, tmp_path / "maps", *flags[:2], code=2)[1]
    assert "needs `--class`" in no_class and "field `animal`" in no_class
    masks = annotate(camflow, models, animals, tmp_path / "maps", "--target", "similar:ground_truth", *flags[2:], code=2)[1]
    assert "a reference embedding is of whole images" in masks


def test_another_reference_makes_heatmaps_anew_and_the_same_elsewhere_does_not(camflow, models, animals, tmp_path):
    reference = np.random.default_rng(3).normal(size=12).astype(np.float32)
    np.save(tmp_path / "ref.npy", reference)
    job = tmp_path / "job.toml"
    job.write_text(
        f'version = 1\n[[job]]\nname = "near"\ndataset = "{animals.name}"\nmodel = "{models / "embedding.pt2"}"\n'
        f'layers = "layer2"\ndevice = "cpu"\nout = "maps"\ntarget = "similar=ref.npy"\n'
    )
    camflow("run", job)
    run = ("--target", f"similar={tmp_path / 'ref.npy'}")
    assert annotate(camflow, models, animals, tmp_path / "maps", *run)[0]["skipped"] == {"up to date": 9}
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "ref.npy", reference[None])
    moved = ("--target", f"similar={tmp_path / 'other' / 'ref.npy'}")
    assert annotate(camflow, models, animals, tmp_path / "maps", *moved)[0]["skipped"] == {"up to date": 9}
    np.save(tmp_path / "ref.npy", -reference)
    refused = annotate(camflow, models, animals, tmp_path / "maps", *run, code=2)[1]
    assert "would replace other heatmaps" in refused
    assert annotate(camflow, models, animals, tmp_path / "maps", *run, "--replace")[0]["num_committed"] == 9
    faithful = annotate(camflow, models, animals, tmp_path / "maps", *run, "--faithfulness", code=2)[1]
    assert "probability of a class" in faithful


def test_the_exporter_says_what_the_output_means(camflow, tmp_path):
    export = ("export", f"{HERE / 'value_models.py'}:scores", "--size", "48x64", "--out")
    said = camflow(*export, tmp_path / "e.pt2", "--task", "embedding").stderr
    assert "names of classes are left out" in said
    camflow(*export, tmp_path / "r.pt2", "--task", "regression")
    assert "task" in camflow(*export, tmp_path / "w.pt2", "--task", "regresion", code=2).stderr
    inspected = json.loads(camflow("inspect", tmp_path / "r.pt2", "--format", "json").stdout)
    assert inspected["task"] == "regression" and inspected["classes"]
    maps = camflow(
        "export", f"{HERE / 'value_models.py'}:depth", "--out", tmp_path / "m.pt2", "--task", "embedding", code=2
    ).stderr
    assert "an embedding is [N, D]" in maps
    depth = ("export", f"{HERE / 'value_models.py'}:depth", "--out", tmp_path / "c.pt2", "--task", "classification")
    refused = camflow(*depth, code=2).stderr
    assert "scores for places of the image" in refused and "--task segmentation" in refused
