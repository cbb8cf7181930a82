"""Texts as classes (`--text`): scores and heatmaps against transformers and pytorch_grad_cam, on random towers, and what is kept of texts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGES, python_path
from PIL import Image
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import camflow as api
import fiftyone as fo

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import hugging_face_folders as folders
import test_zoo
from camflow.export import ExportError
from camflow.export.transforms import steps_from_transforms
from torchvision.transforms import Compose, Normalize, Resize

pytestmark = pytest.mark.begins

EXPORT = """
import sys
from camflow.export import export, load_model
for kind in ("clip", "siglip"):
    folder = f"{sys.argv[1]}/{kind}"
    export(load_model(folder, task="embedding"), f"{folder}.pt2")
    export(load_model(folder, classes=["cat", "dog", "bird"], prompt="a photo of a {}"), f"{folder}-classes.pt2")
"""
KINDS = ("clip", "siglip")
TEXTS = ["a photo of a cat", "a photo of a dog", "a photo of a bird"]
METHODS = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus}
WITHOUT_PYTHON = {"CAMFLOW_PYTHON": "/nonexistent/python"}


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """CLIP and SigLIP with small random networks as folders, and of each the image tower and a classifier of three texts."""
    folder = tmp_path_factory.mktemp("towers")
    for kind in KINDS:
        folders.save(getattr(folders, kind), folder / kind)
    command = [sys.executable, "-c", EXPORT, str(folder)]
    done = subprocess.run(
        command, check=False, env={**os.environ, "PYTHONPATH": python_path(PACKAGES)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module", autouse=True)
def kept(tmp_path_factory):
    """A cache of this module's own; the folder with embeddings."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAMFLOW_CACHE", str(folder))
        patch.setenv("CAMFLOW_PYTHON", sys.executable)
        yield folder / "models" / "texts"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Three images f32 [3, 3, 64, 64] as a file."""
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1)).numpy())
    return path


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return getattr(folders, kind)()[0].eval()


class Scores(torch.nn.Module):
    """Scores [N, K] of texts, as transformers has them."""

    def __init__(self, kind, texts):
        super().__init__()
        padding = {"padding": "max_length", "max_length": 16} if kind == "siglip" else {"padding": True}
        self.model = network(kind)
        self.tokens = folders.tokenizer()(texts, return_tensors="pt", **padding)["input_ids"]

    def forward(self, pixels):
        return self.model(pixel_values=pixels, input_ids=self.tokens).logits_per_image


def explained(camflow, *arguments, env=None):
    """Heatmaps by (sample, class, method), and the events."""
    done = camflow("explain", *arguments, "--exact", "--format", "json", env=env)
    events = [event for event in done.events if event["event"] == "heatmap"]
    return {(e["sample"], e["class"], e["method"]): np.load(e["files"][0]) for e in events}, events


def texts(*names):
    return [f"--text={name}" for name in names]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_is_explained_as_a_class_is(camflow, towers, images, tmp_path, kind):
    found, events = explained(
        camflow,
        images,
        "--model",
        towers / f"{kind}.pt2",
        *texts(*TEXTS),
        "--method",
        ",".join(METHODS),
        "--out",
        tmp_path / "maps",
    )
    assert len(found) == 3 * 3 * 2 and {name for _, name, _ in found} == set(TEXTS)
    scores, pixels = Scores(kind, TEXTS), torch.from_numpy(np.load(images))
    path = events[0]["path"]
    is_class_token = kind == "clip"

    def grid(tokens):
        return tokens[:, int(is_class_token) :].reshape(-1, 4, 4, tokens.shape[-1]).permute(0, 3, 1, 2)

    seen = 0
    for (sample, name, method), heatmap in found.items():
        target = ClassifierOutputTarget(TEXTS.index(name))
        with METHODS[method](scores, [scores.model.get_submodule(path)], reshape_transform=grid) as cam:
            number = int(sample.rpartition(".")[2])
            expected = cam(pixels[number : number + 1], [target])[0]
        assert np.abs(heatmap - expected).max() < 1e-5, (sample, name, method)
        seen += heatmap.max() > 0
    assert seen >= len(found) // 3, "maps without anything in them would all be alike"
    with torch.no_grad():
        logits = scores(pixels)
    probabilities = logits.softmax(1) if kind == "clip" else logits.sigmoid()
    for event in events:
        at = int(event["sample"].rpartition(".")[2]), TEXTS.index(event["class"])
        assert event["score"] == pytest.approx(float(logits[at]), abs=1e-5)
        assert event["confidence"] == pytest.approx(float(probabilities[at]), abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_gives_what_the_export_with_these_classes_gives(camflow, towers, images, tmp_path, kind):
    flags = ("--class", "cat,dog,bird", "--out")
    template = ("--text-template", "a photo of a {}")
    laid, events = explained(camflow, images, "--model", towers / f"{kind}.pt2", *template, *flags, tmp_path / "laid")
    baked, wanted = explained(camflow, images, "--model", towers / f"{kind}-classes.pt2", *flags, tmp_path / "baked")
    assert laid.keys() == baked.keys() and len(laid) == 9
    for key, heatmap in laid.items():
        assert np.abs(heatmap - baked[key]).max() < 1e-6, key
    assert [e["score"] for e in events] == pytest.approx([e["score"] for e in wanted], abs=2e-6)
    if kind == "clip":
        assert [e["confidence"] for e in events] == pytest.approx([e["confidence"] for e in wanted], abs=1e-6)


def test_one_text_has_a_confidence_where_it_says_something(camflow, towers, images, tmp_path):
    for kind in KINDS:
        done = camflow(
            "explain", images, "--model", towers / f"{kind}.pt2", *texts(TEXTS[0]), "--out", tmp_path / kind, "--format", "json"
        )
        events = [event for event in done.events if event["event"] == "heatmap"]
        with torch.no_grad():
            scores = Scores(kind, TEXTS[:1])(torch.from_numpy(np.load(images)))[:, 0]
        assert [e["score"] for e in events] == pytest.approx(scores.tolist(), abs=1e-5)
        if kind == "clip":
            assert {e["confidence"] for e in events} == {None}, "a softmax over one text is 1 whatever the image shows"
            assert any("one text by itself has no confidence" in str(event.get("message")) for event in done.events)
        else:
            assert [e["confidence"] for e in events] == pytest.approx(scores.sigmoid().tolist(), abs=1e-5)


def test_a_name_is_exported_once_and_each_text_embedded_once(camflow, towers, images, tmp_path, kept):
    def run(*flags, env=None):
        return camflow("explain", images, "--model", towers / "clip", *flags, "--out", tmp_path / "maps", env=env).stderr

    first = run(*texts("a cat", "a dog"))
    assert "exporting the image tower" in first and "embedding 2 texts" in first
    [tower] = kept.parent.glob("*.pt2")
    exported = tower.stat()
    again = run(*texts("a dog", "a cat"), env=WITHOUT_PYTHON)
    assert "exporting" not in again and "embedding" not in again
    more = run(*texts("a bird", "a cat"))
    assert "exporting" not in more and "embedding 1 text of model `clip`: `a bird`" in more
    assert tower.stat() == exported
    missing = camflow(
        *("explain", images, "--model", towers / "clip", *texts("a photo"), "--out", tmp_path / "maps"),
        code=2,
        env=WITHOUT_PYTHON,
    ).stderr
    assert "there is no embedding yet for 1 text of model `clip`: `a photo`" in missing and "hint: " in missing
    assert not list(kept.rglob("*.tmp"))
    for path in kept.rglob("*.json"):
        entry = json.loads(path.read_text())
        assert path.stat().st_mode & 0o444 == 0o444 and len(entry["embedding"]) in (24, 32), path


def test_a_broken_embedding_is_told_and_never_taken(camflow, towers, images, tmp_path, kept):
    flags = (images, "--model", towers / "clip.pt2", *texts("a dog"), "--out", tmp_path / "maps")
    camflow("explain", *flags)
    [path] = [path for path in kept.rglob("*.json") if json.loads(path.read_text())["text"] == "a dog"][:1]
    whole = path.read_text()
    for broken in (whole[:40], whole.replace("a dog", "a cat"), json.dumps({"text": "a dog", "embedding": [0.0] * 24})):
        path.write_text(broken)
        assert f"hint: remove it, and it is made again: `rm {path}`" in camflow("explain", *flags, code=2).stderr
    path.write_text(json.dumps({"text": "a dog", "embedding": [1.0] * 7}))
    assert "has 7 numbers, and those of images have 24" in camflow("explain", *flags, code=2).stderr
    path.unlink()
    camflow("explain", *flags)
    assert path.read_text() == whole


def test_two_runs_that_embed_the_same_text_do_not_collide(binary, towers, images, tmp_path, kept):
    command = [str(binary), "explain", str(images), "--model", str(towers / "clip.pt2"), "--text", "photo of a photo of a bird"]
    runs = [
        subprocess.Popen([*command, "--out", str(tmp_path / str(n))], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for n in range(2)
    ]
    said = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert not list(kept.rglob("*.tmp"))


def test_another_text_tower_is_not_taken_for_the_one_of_the_export(camflow, towers, images, tmp_path, kept):
    folder = tmp_path / "clip"
    shutil.copytree(towers / "clip", folder)
    flags = (images, "--model", folder, "--out", tmp_path / "maps")
    camflow("explain", *flags, *texts("a cat"))
    torch.manual_seed(1)
    folders.clip()[0].save_pretrained(folder)
    assert "is not the one that" in camflow("explain", *flags, *texts("a dog"), code=2).stderr
    shutil.rmtree(folder)
    named = [str(path) for path in kept.parent.glob("*image-tower.pt2") if "another" in path.name]
    gone = camflow("explain", images, "--model", *named, "--out", tmp_path / "maps", *texts("a dog"), code=2).stderr
    assert "is gone, whose text tower belongs to" in gone
    camflow("explain", images, "--model", *named, "--out", tmp_path / "maps", *texts("a cat"))


REFUSED = {
    "with a class": ([*texts("a cat"), "--class", "cat"], "`--text` says what is explained, and so does `--class cat`"),
    "empty": ([*texts("  ")], "`--text` gives an empty text"),
    "twice": ([*texts("a cat", "a dog", "a cat")], "`--text` names `a cat` twice"),
    "unseen": ([*texts("a\u202ecat")], "which nobody can see"),
    "long": ([*texts("a cat " * 200)], "a text of 1200 bytes"),
    "too many tokens": ([*texts("a photo of " * 5)], "has 17 tokens, and the model reads 16"),
    "a pixel": ([*texts("a cat"), "--target", "pixel=1,2"], "and `--target pixel=1,2` something else"),
    "similar": ([*texts("a cat"), "--target", "similar=a.png"], "and `--target similar=a.png` something else"),
    "no place": (["--text-template", "a photo", "--class", "cat"], "the template `a photo` has no `{}`"),
    "nothing named": ([], "scores texts, and nothing says which"),
    "a layer by one text": ([*texts("a cat"), "--layers", "auto"], "`--layers auto` asks for the probability of `a cat`"),
}


@pytest.mark.parametrize("asked", REFUSED)
def test_what_cannot_be_is_refused_with_a_way_out(camflow, towers, images, tmp_path, asked):
    flags, expected = REFUSED[asked]
    said = camflow("explain", images, "--model", towers / "clip.pt2", "--out", tmp_path / "maps", *flags, code=2).stderr
    assert expected in said and "hint: " in said, said


def test_models_without_a_text_tower_take_no_texts(camflow, towers, classifier, images, tmp_path):
    flags = ("--out", tmp_path / "maps", *texts("a cat"))
    for model, more in ((classifier, "it scores"), (towers / "clip-classes.pt2", "it scores `cat`, `dog`, `bird`")):
        said = camflow("explain", images, "--model", model, *flags, code=2).stderr
        assert "has no text tower, so `--text` cannot be scored" in said and more in said and "--task embedding" in said
    named = f"{HERE / 'tiny_classifier.py'}:classifier"
    said = camflow("explain", images, "--model", named, *flags, code=2).stderr
    assert "has no text tower, so texts cannot be scored with it" in said


def test_the_command_export_makes_a_tower_that_says_so(camflow, towers, images, tmp_path):
    tower = tmp_path / "tower.pt2"
    camflow("export", towers / "siglip", "--task", "embedding", "--prompt", "a photo of a {}", "--out", tower)
    said = camflow("inspect", tower).stdout
    assert f"embedded by hf:{towers / 'siglip'}; the cosine times 4.4817, plus -2.0000; each text has a sigmoid" in said
    _, events = explained(camflow, images, "--model", tower, "--class", "cat,dog", "--out", tmp_path / "maps")
    _, wanted = explained(camflow, images, "--model", tower, *texts(*TEXTS[:2]), "--out", tmp_path / "texts")
    assert [e["score"] for e in events] == [e["score"] for e in wanted], "the prompt of the export makes texts of classes"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    image.save(tmp_path / "a.png")
    flags = ("--target", f"similar={tmp_path / 'a.png'}", "--out", tmp_path / "similar")
    [itself] = explained(camflow, tmp_path / "a.png", "--model", tower, *flags)[1]
    assert itself["score"] == pytest.approx(1, abs=1e-6), "an image tower is a model of embeddings, too"


class MaybeConvertMode:
    """As open_clip 3 has it in its preprocessing."""

    def __init__(self, mode):
        self.mode = mode


def test_the_preprocessing_of_open_clip_is_read():
    resize, normalize = Resize(224), Normalize([0.5] * 3, [0.25] * 3)
    with_mode = steps_from_transforms(Compose([resize, MaybeConvertMode("RGB"), normalize]))
    assert with_mode == steps_from_transforms(Compose([resize, normalize]))
    with pytest.raises(ExportError, match="MaybeConvertMode"):
        steps_from_transforms(Compose([resize, MaybeConvertMode("L"), normalize]))


@pytest.fixture
def dataset(quickstart, clone):
    """Three samples of the stand-in dataset, with a class each; of others the middle would lie between two pixels."""
    samples = fo.load_dataset(quickstart)
    dataset = clone(samples.select([s.id for s in samples if {s.metadata.width, s.metadata.height} == {480, 640}][:3]))
    dataset.set_values("animal", [fo.Classification(label=label) for label in ("cat", "dog", "cat")])
    return dataset


@pytest.fixture
def annotate(camflow, towers, tmp_path, dataset):
    def run(*flags, kind="clip", code=0, env=None):
        arguments = ["--dataset", dataset.name, "--model", towers / f"{kind}.pt2", "--out", tmp_path / "out", "--batch-size", "1"]
        done = camflow("annotate", *arguments, "--format", "json", *flags, code=code, env=env)
        dataset.reload()
        finished = [event for event in done.events if event["event"] == "run_finished"]
        return (finished[0]["num_committed"], finished[0]["skipped"]) if finished else (done.stdout + done.stderr)

    return run


CAT, DOG = (f"a_photo_of_a_{name}_grad_layer_3" for name in ("cat", "dog"))


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_gets_a_field_in_every_sample_and_is_computed_once(annotate, dataset, towers, tmp_path, kind):
    pair = texts(*TEXTS[:2])
    assert annotate(*pair, kind=kind) == (3, {})
    assert {CAT, DOG} <= set(dataset.get_field_schema())
    scores, samples = Scores(kind, TEXTS[:2]), list(dataset)
    processor = getattr(folders, kind)()[1]
    for sample in samples:
        with torch.no_grad():
            logits = scores(processor(Image.open(sample.filepath).convert("RGB"), return_tensors="pt")["pixel_values"])[0]
        wanted = logits.softmax(0) if kind == "clip" else logits.sigmoid()
        for number, field in enumerate((CAT, DOG)):
            assert sample[field]["score"] == pytest.approx(float(logits[number]), abs=1e-2)
            assert sample[field]["confidence"] == pytest.approx(float(wanted[number]), abs=1e-2)
            assert sample[field]["target_class"] == TEXTS[number]
    maps = {sample.id: sample[CAT].map_path for sample in samples}
    assert annotate(*pair, kind=kind, env=WITHOUT_PYTHON) == (0, {"up to date": 3})
    assert annotate(*reversed(pair), kind=kind) == (0, {"up to date": 3}), "in any order"
    # What a softmax compares is another thing now, whose confidences differ; a sigmoid is of each text by itself.
    if kind == "clip":
        said = annotate(*texts(*TEXTS), kind=kind, code=2)
        assert "made with `text = " in said and "--replace" in said
        assert annotate(*texts(*TEXTS), "--replace", kind=kind) == (3, {})
    else:
        assert annotate(*texts(*TEXTS), kind=kind) == (3, {})
    assert {sample.id: sample[CAT].map_path for sample in dataset} == maps or kind == "clip"
    assert annotate(*texts(*TEXTS), kind=kind) == (0, {"up to date": 3})
    # Another sentence for the same name.
    assert "would replace other heatmaps" in annotate(*texts(*TEXTS), "--text-template", "a {}", kind=kind, code=2)
    assert annotate(*texts(*TEXTS), "--text-template", "a {}", "--replace", kind=kind) == (3, {})


def test_labels_are_texts(annotate, dataset):
    flags = ("--target", "labels:animal", "--text-template", "a photo of a {}")
    assert annotate(*flags) == (3, {})
    field = "animal_grad_layer_3"
    for sample in dataset:
        assert sample[field]["target_class"] == sample.animal.label and 0 < sample[field]["confidence"] < 1
    assert annotate(*flags, env=WITHOUT_PYTHON) == (0, {"up to date": 3})
    said = annotate(*flags[:2], "--text-template", "a {}", code=2)
    assert "made with `text-template = a photo of a {}`, this run has `a {}`" in said
    # A field for each class, of those samples that are labelled so.
    assert annotate(*flags, "--class", "all") == (3, {})
    assert [sample["dog_grad_layer_3"] is not None for sample in dataset] == [False, True, False]
    # Texts name the classes, and labels choose among them.
    assert annotate("--target", "labels:animal", *texts("cat", "dog"), "--field", "t_{class}") == (3, {})
    assert [sample["t_cat"] is not None for sample in dataset] == [True, False, True]
    # The first text of each.
    assert annotate("--target", "top", *texts(*TEXTS)) == (3, {})
    assert {sample["top_grad_layer_3"]["target_class"] for sample in dataset} <= set(TEXTS)


def test_a_job_file_and_faithfulness(camflow, annotate, dataset, towers, tmp_path):
    assert "asks for the probability of `a cat`" in annotate(*texts("a cat"), "--faithfulness", code=2)
    (tmp_path / "job.toml").write_text(
        f'version = 1\n[[job]]\nname = "texts"\ndataset = "{dataset.name}"\nmodel = "{towers / "clip.pt2"}"\n'
        f'text = ["a cat", "a dog, a bird"]\nout = "{tmp_path / "job"}"\nlimit = 1\nfaithfulness = true\n'
    )
    camflow("run", tmp_path / "job.toml")
    dataset.reload()
    sample = dataset.first()
    assert sample["a_cat_grad_layer_3"]["insertion_auc"] is not None
    assert sample["a_dog__a_bird_grad_layer_3"]["target_class"] == "a dog, a bird", "a comma separates no texts"


def test_a_model_of_fiftyone_is_taken_as_it_is(binary, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    model = test_zoo.clip(tmp_path)
    result = api.compute_heatmaps(dataset, model, text=["a cat", "a dog"], out=tmp_path / "out", progress=False)
    assert result.num_annotated == 3 and len(result.fields) == 2
    pixels = np.random.default_rng(3).integers(0, 255, (64, 64, 3), np.uint8)
    explanation = api.explain(pixels, model, text=["a cat", "a dog"])
    with torch.no_grad():
        embedded = model._embed_prompts(["a cat", "a dog"])
        normalized = (torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
        logits, _ = model._get_class_logits(embedded, model._model.encode_image(normalized))
    assert [heatmap.score for heatmap in explanation.heatmaps] == pytest.approx(logits[0].tolist(), abs=1e-4)
    again = api.compute_heatmaps(dataset, model, text=["a cat", "a dog"], out=tmp_path / "out", progress=False)
    assert again.skipped == {"up to date": 3}
    with pytest.raises(ValueError, match="leave out `class_names`"):
        api.explain(pixels, model, text="a cat", class_names=["cat"])
    with pytest.raises(TypeError, match="a text is a str"):
        api.explain(pixels, model, text=[3])
