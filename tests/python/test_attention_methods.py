"""Methods of attention give what their papers say, on each family of vision transformers, for images alone and in batches."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import PACKAGES

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "scripts" / "lab")]
import attention_models as models
import attention_reference as reference
import hugging_face_folders as folders
import test_text
from attention_reference import Tower

CHANNEL = 3
PATCHES = (4, 5)
SQUARE = (4, 4)


def patches(prefix: int, grid: tuple[int, int]) -> list[int]:
    return list(range(prefix, prefix + grid[0] * grid[1]))


# Where the blocks are, how many tokens come before the patches, and which of all the output reads.
TOWERS = {
    "vit": ("blocks", 1, PATCHES, [0]),
    "vit_mean": ("blocks", 0, PATCHES, patches(0, PATCHES)),
    "siglip": ("blocks", 0, PATCHES, None),
    "deit": ("blocks", 2, PATCHES, [0, 1]),
    "beit": ("blocks", 1, PATCHES, patches(1, PATCHES)),
    "eva": ("blocks", 5, PATCHES, [0]),
    "torchvision_vit": ("encoder.layers", 1, SQUARE, [0]),
    "vit_eager": ("model.vit.layers", 1, PATCHES, [0]),
    "dinov2_registers": ("model.dinov2_with_registers.encoder.layer", 5, SQUARE, [0]),
}
LAYERS = {2: "2", 3: "3"}  # blocks: layer
# Of each way to read tokens and to write attention one.
ALONE = ("vit", "siglip", "beit", "vit_eager")


@pytest.fixture(scope="module", autouse=True)
def attention_by_the_formula():
    torch.backends.mha.set_fastpath_enabled(False)


def tower(name: str) -> Tower:
    return Tower(getattr(models, name)(), *TOWERS[name])


def images(model: torch.nn.Module, count: int) -> torch.Tensor:
    size = model.camflow_metadata["example"]
    coarse = torch.randn(count, 3, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(7))
    return 2 * torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)


def methods_of(name: str) -> list[str]:
    """Grad-ECLIP wants a class token, or a query in its place."""
    _, prefix, _, read = TOWERS[name]
    return [method for method in reference.METHODS if method != "grad-eclip" or read is None or read[0] < prefix]


def maps(camflow, archive, pixels, folder, methods, *flags, layers="2,3", channel: object = CHANNEL):
    """The heatmap f32 [H', W'] by method, layer and number of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "input.npy", pixels.numpy())
    arguments = ("--class", channel, "--layers", layers, "--method", ",".join(methods), "--size", "layer")
    done = camflow(
        *("explain", folder / "input.npy", "--model", archive, *arguments, "--out", folder / "maps"),
        *("--device", "cpu", "--format", "json", *flags),
    )
    events = [event for event in done.events if event["event"] == "heatmap"]
    number = lambda event: int(event["sample"].rpartition(".")[2]) if len(pixels) > 1 else 0  # noqa: E731
    return {(event["method"], event["layer"], number(event)): np.load(event["files"][0]) for event in events}


@pytest.mark.parametrize("name", TOWERS)
def test_each_gives_what_its_paper_says(camflow, export, tmp_path, name):
    archive = export(f"{models.__file__}:{name}", inputs=(Path(models.__file__),))
    seen, methods = tower(name), methods_of(name)
    pixels = images(seen.module, 3)
    found = maps(camflow, archive, pixels, tmp_path / "together", methods, "--exact")
    assert len(found) == 3 * 2 * len(methods)
    num_full = 0
    for (method, layer, number), heatmap in found.items():
        count = next(count for count, known in LAYERS.items() if known == layer)
        saliency = reference.METHODS[method](seen, pixels[number : number + 1], CHANNEL, count)
        wanted = reference.heatmap(saliency)
        num_full += wanted.max() > 0.99 and wanted.min() < 0.2
        assert heatmap.shape == seen.grid
        assert np.abs(heatmap - wanted).max() <= 1e-4, (method, layer, number, np.abs(heatmap - wanted).max())
    assert num_full > 0.8 * len(found), "maps without anything in them would all be alike"
    if name not in ALONE:
        return
    # An image alone is what it is among others.
    alone = maps(camflow, archive, pixels[1:2], tmp_path / "alone", methods, "--exact")
    for (method, layer, _), heatmap in alone.items():
        assert np.abs(heatmap - found[method, layer, 1]).max() <= 1e-5, (method, layer)


@pytest.fixture(scope="module")
def vit(export):
    return export(f"{models.__file__}:vit", inputs=(Path(models.__file__),))


def test_attention_that_is_written_out_gives_what_the_fused_one_gives(camflow, vit, tmp_path):
    """In every mode; and other methods beside it what they give without it."""
    pixels = images(models.vit(), 2)
    np.save(tmp_path / "input.npy", pixels.numpy())

    def run(methods, *flags):
        arguments = ("--model", vit, "--class", CHANNEL, "--method", methods, "--device", "cpu", "--format", "json", *flags)
        done = camflow("explain", tmp_path / "input.npy", *arguments, "--out", tmp_path / "maps")
        events = [event for event in done.events if event["event"] == "heatmap"]
        return {(e["method"], e["sample"]): (e["score"], np.load(e["files"][0])) for e in events}

    for flags in ((), ("--exact",)):
        alone, beside = run("gradcam,hirescam", *flags), run("gradcam,hirescam,chefer,legrad,attention-rollout", *flags)
        for key, (score, heatmap) in alone.items():
            assert beside[key][0] == pytest.approx(score, abs=1e-5)
            assert np.abs(beside[key][1] - heatmap).max() <= 1e-4, key
    exact, default = run("chefer,legrad,grad-eclip", "--exact"), run("chefer,legrad,grad-eclip")
    for key, (_, heatmap) in exact.items():
        assert np.abs(default[key][1] - heatmap).max() <= 1e-4, key


def test_classes_have_maps_of_their_own_and_rollout_has_one(camflow, vit, tmp_path):
    pixels = images(models.vit(), 1)
    methods = list(reference.METHODS)
    both = {}
    for channel in (1, 3):
        both[channel] = maps(camflow, vit, pixels, tmp_path / str(channel), methods, layers="3", channel=channel)
    np.save(tmp_path / "input.npy", pixels.numpy())
    done = camflow(
        *("explain", tmp_path / "input.npy", "--model", vit, "--class", "1,3", "--method", ",".join(methods)),
        *("--size", "layer", "--out", tmp_path / "maps", "--device", "cpu", "--format", "json"),
    )
    for event in done.events:
        if event["event"] == "heatmap":
            found = np.load(event["files"][0])
            assert np.abs(found - both[event["channel"]][event["method"], "3", 0]).max() <= 1e-5
    for method in methods:
        difference = np.abs(both[1][method, "3", 0] - both[3][method, "3", 0]).max()
        assert difference == 0 if method == "attention-rollout" else difference > 0.1, method


@pytest.fixture(scope="module")
def swin(export):
    return export(f"{models.__file__}:swin", inputs=(Path(models.__file__),))


@pytest.fixture(scope="module")
def vit_mean(export):
    return export(f"{models.__file__}:vit_mean", inputs=(Path(models.__file__),))


def test_what_cannot_be_followed_is_refused_before_anything_is_explained(camflow, export, swin, vit_mean, tmp_path):
    def refused(model, method, *flags):
        done = camflow("explain", tmp_path / "none.npy", "--model", model, "--method", method, "--out", tmp_path, *flags, code=2)
        assert "hint: " in done.stderr
        return done.stderr

    np.save(tmp_path / "none.npy", np.zeros((1, 3, 64, 80), np.float32))
    network = export("torchvision:resnet18", "--weights", "none", "--seed", "0", "--warm-batchnorm", "4")
    for method in reference.METHODS:
        text = refused(network, method)
        assert f"`--method {method}`" in text and "it computes no attention" in text and "gradcam or layercam" in text
    text = refused(swin, "gradcam,chefer", "--layers", "1")
    assert "within parts of the image" in text and "node `softmax`" in text
    text = refused(vit_mean, "grad-eclip")
    assert "class token" in text and "chefer and legrad" in text
    # What has no tokens by itself is refused by the others.
    assert "no attention comes before layer `pos_drop`" in refused(vit_mean, "chefer", "--layers", "pos_drop")


class ImageScores(torch.nn.Module):
    """The scores [N, K] of texts, from the image tower alone: the text tower attends, too."""

    def __init__(self, kind: str, scores):
        super().__init__()
        self.kind, self.model = kind, scores.model
        with torch.no_grad():
            given = scores.model(pixel_values=torch.zeros(1, 3, 64, 64), input_ids=scores.tokens)
        self.texts = torch.nn.functional.normalize(given.text_embeds, dim=-1)

    def forward(self, pixels):
        embeddings = self.model.vision_model(pixel_values=pixels).pooler_output
        if self.kind == "clip":
            embeddings = self.model.visual_projection(embeddings)
        cosines = torch.nn.functional.normalize(embeddings, dim=-1) @ self.texts.T
        return cosines * self.model.logit_scale.exp() + (self.model.logit_bias if self.kind == "siglip" else 0)


def test_texts_are_explained_by_attention(camflow, tmp_path_factory, tmp_path):
    """CLIP's tower with a class token, and SigLIP's with a query; a text's similarity is the score."""
    folder = tmp_path_factory.mktemp("towers")
    for kind in test_text.KINDS:
        folders.save(getattr(folders, kind), folder / kind)
    command = [sys.executable, "-c", test_text.EXPORT, str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(PACKAGES)}, capture_output=True)
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    np.save(tmp_path / "input.npy", pixels.numpy())
    environment = {"CAMFLOW_CACHE": str(tmp_path / "cache"), "CAMFLOW_PYTHON": sys.executable}
    names = test_text.TEXTS[:2]
    for kind in test_text.KINDS:
        done = camflow(
            *("explain", tmp_path / "input.npy", "--model", folder / f"{kind}.pt2", *test_text.texts(*names), "--size", "layer"),
            *("--method", ",".join(reference.METHODS), "--out", tmp_path / kind, "--exact", "--format", "json"),
            env=environment,
        )
        scores = test_text.Scores(kind, names)
        tower = ImageScores(kind, scores)
        with torch.no_grad():
            assert torch.allclose(tower(pixels), scores(pixels), atol=1e-5)
        seen = Tower(tower, "model.vision_model.encoder.layers", *((1, SQUARE, [0]) if kind == "clip" else (0, SQUARE, None)))
        found = [event for event in done.events if event["event"] == "heatmap"]
        assert len(found) == 2 * 2 * len(reference.METHODS)
        for event in found:
            number = int(event["sample"].rpartition(".")[2])
            saliency = reference.METHODS[event["method"]](seen, pixels[number : number + 1], names.index(event["class"]), 3)
            difference = np.abs(np.load(event["files"][0]) - reference.heatmap(saliency)).max()
            assert difference <= 1e-4, (kind, event["method"], event["class"], difference)


def test_a_dataset_is_annotated_in_batches(camflow, vit, quickstart, tmp_path):
    """As many images at once as memory allows give what single ones give, in fields that are named after the methods."""
    import fiftyone as fo
    from camflow import load

    dataset = fo.load_dataset(quickstart).limit(5).clone("methods-of-attention")
    dataset.persistent = True
    found = {}
    for size in ("auto", "1"):
        arguments = ("--dataset", dataset.name, "--model", vit, "--target", "top", "--method", "chefer,legrad,attention-rollout")
        done = camflow(
            *("annotate", *arguments, "--batch-size", size, "--out", tmp_path / size, "--field", f"{{method}}_{size}"),
            *("--device", "cpu", "--format", "json"),
        )
        summary = next(event for event in done.events if event["event"] == "run_finished")
        assert (summary["num_committed"], summary["num_heatmaps"]) == (5, 15)
        dataset.reload()
        for sample in dataset:
            for method in ("chefer", "legrad", "attention-rollout"):
                label = sample[f"{method.replace('-', '_')}_{size}"]
                assert (label.method, label.layer) == (method, "blocks.2.norm1")
                found[size, sample.filepath, method] = load(label)
    for (size, path, method), heatmap in found.items():
        assert heatmap.max() > 0.9 and np.abs(heatmap - found["1", path, method]).max() <= 1e-4, (size, method)
    dataset.delete()
