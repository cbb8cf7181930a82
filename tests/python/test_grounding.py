"""Grounding DINO and its kin, which read the texts of all classes as one beside the image: scores and heatmaps against transformers."""

from __future__ import annotations

import os

import detector_reference
import detectors
import hugging_face_folders as folders
import numpy as np
import pytest
import transformers
from camflow.export.loading import load_model
from camflow.export.messages import ExportError
from PIL import Image
from small_detector import corners, tensor

import torch

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"

NAMES = ["a red cat", "dog", "bird"]
# Of the tokens of "a red cat. dog. bird." between those that begin and end all.
PLACES = [slice(1, 4), slice(5, 6), slice(7, 8)]
KINDS = {
    folders.grounding_dino: transformers.GroundingDinoForObjectDetection,
    folders.mm_grounding_dino: transformers.MMGroundingDinoForObjectDetection,
}


@pytest.fixture(scope="module", params=list(KINDS), ids=lambda build: build.__name__)
def known(request, tmp_path_factory):
    """(the folder of a model, that itself)."""
    folder = folders.save(request.param, tmp_path_factory.mktemp("grounding") / "model")
    return folder, KINDS[request.param].from_pretrained(folder).eval()


def theirs(own, folder, images):
    """(class logits [N, K, Q], boxes [N, Q, 4]): of a class those of its likeliest token, as the library's processor reads texts."""
    parts = [auto.from_pretrained(folder) for auto in (transformers.AutoImageProcessor, transformers.AutoTokenizer)]
    processor = transformers.GroundingDinoProcessor(*parts)
    tokens = processor(text=[NAMES] * len(images), return_tensors="pt", return_token_type_ids=False)
    found = own(pixel_values=images, **tokens)
    logits = torch.stack([found.logits[..., place].amax(-1) for place in PLACES], dim=1)
    return logits, corners(found.pred_boxes)


def test_texts_are_scored_as_transformers_does(known):
    folder, own = known
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    loaded = load_model(str(folder), classes=NAMES)
    with torch.no_grad():
        (logits, boxes), found = theirs(own, folder, images), loaded.module(images)
    assert torch.allclose(found["logits"].squeeze(-1), logits, atol=1e-5) and torch.allclose(found["boxes"], boxes, atol=1e-5)
    # Texts are told apart, and so are images.
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 0.1 and (logits[0] - logits[1]).abs().max() > 0.1
    assert list(loaded.metadata["classes"].values()) == NAMES
    suppression = {"iou": None, "most": None}
    assert loaded.metadata["detections"] == {"boxes": "boxes", "scores": "sigmoid", "threshold": 0.25, "suppression": suppression}


def test_heatmaps_are_layercam_of_what_the_encoder_is_given(camflow, database, known, tmp_path):
    folder, own = known
    model = tmp_path / "model.pt2"
    camflow("export", folder, "--classes", ",".join(NAMES), "--out", model)
    coarse = Image.fromarray(np.random.default_rng(5).integers(0, 255, (6, 8, 3), np.uint8))
    picture = coarse.resize((96, 64), Image.Resampling.BICUBIC)
    picture.save(tmp_path / "image.png")
    images, levels = tensor(np.asarray(picture)), list(own.model.input_proj_vision)

    def layercam(job):
        return detector_reference.layercam(own, levels, lambda: theirs(own, folder, images), images, job)

    job = {"channel": 1, "out": str(tmp_path / "wanted.npy")}
    wanted = detectors.two_apart(np.array(layercam(job)["boxes"]).clip(0, 1))
    expected = layercam({**job, "wanted": wanted})
    assert len(expected["meant"]) == 2 and min(expected["largest"]) > 0.5, expected
    dataset = detectors.dataset_of(f"grounding-{folder.parent.name}", [tmp_path / "image.png"], wanted, "dog")
    try:
        score, found = detectors.heatmap_of(dataset, camflow, model, "dog", tmp_path / "maps")
    finally:
        dataset.delete()
    assert score == pytest.approx(expected["score"], rel=1e-4)
    assert np.abs(found - np.load(job["out"])).max() < 1e-4


def test_texts_that_it_cannot_keep_apart_are_refused(tmp_path):
    folder = str(folders.save(folders.grounding_dino, tmp_path / "model"))
    with pytest.raises(ExportError, match="scores texts, and nothing says which"):
        load_model(folder)
    with pytest.raises(ExportError, match="does not make a sequence of tokens of its own of each of 2 texts") as apart:
        load_model(folder, classes=["a cat. a dog", "bird"])
    assert "full stops and question marks separate texts" in apart.value.hint
    with pytest.raises(ExportError, match="a sequence of tokens of its own of each of 2 texts"):
        load_model(folder, classes=["zebra", "gnu"])  # words that the tokenizer does not know
    with pytest.raises(ExportError, match=r"the texts of 12 classes have 26 tokens, and .* reads 24 of all classes together"):
        load_model(folder, classes=["cat"] * 12)
