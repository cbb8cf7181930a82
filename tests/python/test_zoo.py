"""FiftyOne's zoo by name: each entry is taken or refused, and the page about it is of today."""

import os
import subprocess
import sys
from types import SimpleNamespace

import hugging_face_folders as folders
import pytest
import write_zoo
import zoo_constructions
from camflow.export import ExportError, load_model
from camflow.export.loaders import zoo, zoo_kinds
from camflow.export.loading import find_library
from conftest import PACKAGES, python_path

import torch

pytestmark = pytest.mark.begins

ENTRIES = zoo.manifest()


def test_the_page_about_the_zoo_is_of_today():
    assert write_zoo.PAGE.read_text() == write_zoo.page(), "run scripts/write_zoo.py"


def test_what_gives_no_scores_is_refused_by_name():
    refused = [name for name, entry in ENTRIES.items() if zoo_kinds.refusal(entry)]
    assert len(refused) > 50 and len(ENTRIES) - len(refused) > 220
    for name in refused:
        with pytest.raises(ExportError, match=f"`{name}` gives ") as said:
            load_model(f"fiftyone:{name}", "none")
        assert said.value.code == 2 and said.value.hint
    assert "code that is downloaded" in str(refusal_of("PE-Core-B16-224-Vision-Encoder"))
    assert "text and image mix" in str(refusal_of("omdet-turbo-swin-tiny-torch"))


def refusal_of(name):
    with pytest.raises(ExportError) as said:
        load_model(f"fiftyone:{name}", "none")
    return said.value


def test_names_may_be_short(capsys):
    for short, whole in {
        "yolo11n": "yolo11n-coco-torch",
        "yolov8x-seg": "yolov8x-seg-coco-torch",
        "clip-vit-base32": "clip-vit-base32-torch",
        "segformer-b0-ade20k": "segformer-b0-ade20k-torch",
    }.items():
        assert find_library(short) == ("fiftyone", whole)
        assert f"note: `{short}` is taken for `{whole}` of FiftyOne's zoo" in capsys.readouterr().err
    # Those of torchvision are no short names, and nothing is guessed.
    assert find_library("resnet50") == ("torchvision", "resnet50")
    with pytest.raises(ExportError, match="no model `yolo11` in"):
        find_library("yolo11")
    with pytest.raises(ExportError, match="there is no file `yolo11n.pt`") as said:
        load_model("yolo11n.pt")
    assert "`yolo11n-coco-torch`" in said.value.hint


def test_all_of_transformers_are_found_by_their_kind():
    kinds = {zoo_kinds.kind_of(entry) for entry in ENTRIES.values() if not zoo_kinds.refusal(entry)}
    assert set(zoo_kinds.HUGGING_FACE) <= kinds and set(zoo_kinds.CLIP) <= kinds


@pytest.mark.parametrize(
    "name, repository, build, classes",
    [
        ("swin-v2-tiny-torch", "microsoft/swinv2-tiny-patch4-window8-256", folders.swinv2, None),
        ("monet-zero-torch", "suinleelab/monet", folders.clip, "cat,dog"),
        ("dinov3-vits16-torch", "facebook/dinov3-vits16-pretrain-lvd1689m", folders.dinov3, None),
        ("rtdetr-v2-s-coco-torch", "PekingU/rtdetr_v2_r18vd", folders.detr, None),
        ("owlvit-base-patch32-torch", "google/owlvit-base-patch32", folders.owlvit, "cat,dog"),
        ("grounding-dino-tiny-torch", "IDEA-Research/grounding-dino-tiny", folders.grounding_dino, "cat,dog"),
        ("llmdet-tiny-torch", "iSEE-Laboratory/llmdet_tiny", folders.mm_grounding_dino, "cat,dog"),
    ],
)
def test_a_model_of_transformers_by_its_name(tmp_path, name, repository, build, classes):
    config = ENTRIES[name]["default_deployment_config_dict"]["config"]
    repository = config["name_or_path"]
    cached = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    folders.save(build, cached / "snapshots" / "0")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    command = [sys.executable, "-m", "camflow.export", name, "--out", str(tmp_path / "m.pt2"), "--format", "json"]
    command += ["--classes", classes] if classes else []
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": python_path(PACKAGES)}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    detectors = (folders.detr, folders.owlvit, folders.grounding_dino, folders.mm_grounding_dino)
    task = "embedding" if build is folders.dinov3 else "detection" if build in detectors else "classification"
    assert f'"source": "fiftyone:{name}"' in done.stdout and f'"task": "{task}"' in done.stdout


@pytest.mark.parametrize("name", ["resnet18-imagenet-torch", pytest.param("fcn-resnet50-coco-torch", marks=pytest.mark.long)])
def test_a_model_of_torchvision_by_its_name(binary, name):
    assert name in zoo_constructions.buildable()
    # At their own sizes in `scripts/lab/zoo.sh`.
    assert zoo_constructions.tried(binary, name, 900, "--size", "64x96") == {"model": name, "outcome": "ok", "reason": ""}


def clip(tmp_path):
    """FiftyOne's CLIP with a small network, and a vocabulary of letters."""
    import gzip

    from fiftyone.utils.clip.model import CLIP
    from fiftyone.utils.clip.tokenizer import SimpleTokenizer
    from fiftyone.utils.clip.zoo import TorchCLIPModel

    with gzip.open(tmp_path / "bpe.txt.gz", "wt") as file:
        file.write("#version: 0.2\nc a\nd o\n")
    torch.manual_seed(0)
    model = object.__new__(TorchCLIPModel)  # its constructor downloads the weights
    model._tokenizer = SimpleTokenizer(str(tmp_path / "bpe.txt.gz"))
    words = len(model._tokenizer.encoder)
    model._model = CLIP(24, 64, 3, 64, 16, 20, words, 32, 2, 2).eval()
    model._device = torch.device("cpu")
    config = {"text_prompt": "A photo of", "context_length": 20, "image_size": [64, 64], "classes": ["cat", "dog"]}
    model.config = SimpleNamespace(**config, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    model._classes = config["classes"]
    return model


def test_fiftyones_clip_scores_its_classes(tmp_path):
    model = clip(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        texts = model._embed_prompts(["A photo of cat", "A photo of dog"])
        expected, _ = model._get_class_logits(texts, model._model.encode_image(images))
        loaded = load_model(model)
        assert torch.allclose(loaded.module(images), expected, atol=1e-5)
    assert loaded.metadata["classes"] == {"0": "cat", "1": "dog"}
    assert loaded.metadata["preprocess"][-1]["mean"] == [0.5] * 3
