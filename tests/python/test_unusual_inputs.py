"""Models and files that are not the usual ones, given to the whole program: gray models, foreign files, models that say too little."""

from __future__ import annotations

import struct
from pathlib import Path

import gray_models
import numpy as np
import pytest
from archive_copies import copy_archive
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

MODELS = Path(gray_models.__file__)


@pytest.fixture
def gray_model(export) -> Path:
    return export(f"{MODELS}:gray", inputs=(MODELS,))


@pytest.fixture
def silent_model(export, tmp_path) -> Path:
    """One that does not say how its images are preprocessed, as exporters before wrote it."""

    def silence(metadata: dict) -> None:
        metadata["assumed"] = ["preprocess"]

    stated = export(f"{MODELS}:silent", "--preprocess", "none", "--resize", "32x40", inputs=(MODELS,))
    return copy_archive(stated, tmp_path / "silent.pt2", silence)


def picture(path: Path) -> Path:
    Image.fromarray(np.random.default_rng(7).integers(0, 255, (48, 64, 3), np.uint8)).save(path)
    return path


def test_a_gray_model_sees_pillows_gray(camflow, gray_model, tmp_path):
    image = picture(tmp_path / "a.png")
    gray = Image.open(image).convert("L").resize((40, 32), Image.BILINEAR)
    pixels = (torch.from_numpy(np.array(gray)).float()[None, None] / 255 - 0.5) / 0.25
    np.save(tmp_path / "tensor.npy", pixels.numpy())
    flags = ("--class", "middle", "--exact", "--device", "cpu", "--format", "json")
    model = gray_models.gray()
    with GradCAM(model=model, target_layers=[model[0]]) as cam:
        theirs = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(0)])[0]
    for given in (image, tmp_path / "tensor.npy"):
        done = camflow("explain", given, "--model", gray_model, *flags, "--out", tmp_path / given.stem)
        (file,) = [
            file for event in done.events if event["event"] == "heatmap" for file in event["files"] if file.endswith(".npy")
        ]
        ours = np.load(file).squeeze()
        assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5, given
    np.save(tmp_path / "rgb.npy", np.zeros((1, 3, 32, 40), np.float32))
    done = camflow("explain", tmp_path / "rgb.npy", "--model", gray_model, "--device", "cpu", "--out", tmp_path / "rgb", code=1)
    assert "[N, 1, H, W]" in done.stderr


def test_a_gray_model_annotates_a_dataset(camflow, gray_model, tiny_dataset, tmp_path):
    dataset = tiny_dataset(5)
    done = camflow(
        *("annotate", "--dataset", dataset.name, "--class", "light", "--target", "predicted", "--model", gray_model),
        *("--method", "gradcam,scorecam", "--faithfulness", "--batch-size", "2", "--out", tmp_path / "maps", "--device", "cpu"),
        *("--format", "json"),
    )
    counts = next(event for event in done.events if event["event"] == "run_finished")
    assert (counts["num_read"], counts["num_failed"]) == (5, 0) and counts["num_committed"] > 0


def test_a_model_that_says_no_preprocessing_gets_no_images(camflow, export, silent_model, tiny_dataset, tmp_path):
    image, flags = picture(tmp_path / "a.png"), ("--device", "cpu", "--out", tmp_path / "maps")
    done = camflow("explain", image, "--model", silent_model, *flags, code=2)
    assert "does not say how images are preprocessed" in done.stderr and "--preprocess imagenet" in done.stderr
    dataset = tiny_dataset(2)
    done = camflow(
        "annotate",
        "--dataset",
        dataset.name,
        "--class",
        "light",
        "--target",
        "predicted",
        "--model",
        silent_model,
        *flags,
        code=2,
    )
    assert "does not say how images are preprocessed" in done.stderr
    np.save(tmp_path / "tensor.npy", np.zeros((1, 3, 32, 40), np.float32))
    camflow("explain", tmp_path / "tensor.npy", "--model", silent_model, *flags)  # is prepared already
    said = export(f"{MODELS}:silent", "--mean", "0.5", "--std", "0.25", "--resize", "32x40", inputs=(MODELS,))
    camflow("explain", image, "--model", said, *flags)


def test_an_archive_of_before_goes_on_with_a_note(camflow, silent_model, tmp_path):
    """What exporters before wrote of a model that said nothing cannot be told from one that said just that."""

    def forget(metadata: dict) -> None:
        assert metadata.pop("assumed") == ["preprocess"]

    old = copy_archive(silent_model, tmp_path / "old.pt2", forget)
    done = camflow("explain", picture(tmp_path / "a.png"), "--model", old, "--device", "cpu", "--out", tmp_path / "maps")
    assert "stretches images to 32x40" in done.stderr and "--preprocess imagenet" in done.stderr


def test_a_foreign_file_is_called_what_it_is(camflow, tmp_path):
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    torch.jit.script(net).save(tmp_path / "script.pt2")
    torch.save(net.state_dict(), tmp_path / "state.pth")
    torch.save(net.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.export.save(torch.export.export(net, (torch.zeros(1, 3, 8, 8),)), tmp_path / "own.pt2")
    (tmp_path / "net.onnx").write_bytes(b"\x08\x09\x12\x07pytorch\x1a\x052.1.0")
    (tmp_path / "page.pt2").write_text("<html>Sign in</html>")
    (tmp_path / "weights.safetensors").write_bytes(struct.pack("<Q", 16) + b'{"a": "b"}      ')
    image = picture(tmp_path / "a.png")
    for name, what, way in [
        ("script.pt2", "TorchScript", "camflow export file.py:function"),
        ("state.pth", "a checkpoint of PyTorch", "--checkpoint FILE"),
        ("old.pth", "a checkpoint of PyTorch", "--checkpoint FILE"),
        ("own.pt2", "a plain torch.export archive", f"camflow export {tmp_path / 'own.pt2'}"),
        ("net.onnx", "ONNX", "camflow export"),
        ("page.pt2", "HTML", "get the file again"),
        ("weights.safetensors", "safetensors", "--checkpoint FILE"),
    ]:
        done = camflow("explain", image, "--model", tmp_path / name, "--device", "cpu", "--out", tmp_path / "maps", code=2)
        assert what in done.stderr and way in done.stderr and name in done.stderr, done.stderr


def test_the_command_of_the_hint_makes_a_model_of_a_program(camflow, tmp_path):
    model = gray_models.gray()
    torch.export.save(torch.export.export(model, (torch.zeros(2, 1, 32, 40),)), tmp_path / "own.pt2")
    flags = ("--classes", "a,b,c", "--mean", "0.5", "--std", "0.25", "--resize", "32x40")
    camflow("export", tmp_path / "own.pt2", "--out", tmp_path / "made.pt2", "--", *flags)
    image = picture(tmp_path / "a.png")
    camflow("explain", image, "--model", tmp_path / "made.pt2", "--class", "b", "--device", "cpu", "--out", tmp_path / "maps")
    done = camflow("export", tmp_path / "a.png", "--out", tmp_path / "no.pt2", code=2)
    assert "is no file that PyTorch writes" in done.stderr and not (tmp_path / "no.pt2").exists()


def test_a_model_is_exported_only_for_a_job_that_could_begin(camflow, tiny_dataset, tmp_path):
    dataset, cache = tiny_dataset(2), tmp_path / "cache"
    locked = tmp_path / "file"
    locked.write_text("in the way")

    def annotate(*flags, code, name=dataset.name, model=f"{MODELS}:gray", field="ground_truth"):
        return camflow(
            *("annotate", "--dataset", name, "--class", "light", "--target", f"labels:{field}", "--model", model),
            *("--device", "cpu", "--out", tmp_path / "maps", *flags),
            code=code,
            env={"CAMFLOW_CACHE": str(cache)},
        )

    for words, asked in [
        ("no-such-dataset", {"name": "no-such-dataset"}),
        ("ground_trut", {"field": "ground_trut"}),
        ("file", {"flags": ("--out", locked / "maps")}),
    ]:
        done = annotate(*asked.pop("flags", ()), code=2, **asked)
        assert words in done.stderr and "exporting" not in done.stderr, done.stderr
        assert not list(cache.rglob("*.pt2"))


def test_a_channels_number_names_a_field(camflow, export, tiny_dataset, tmp_path):
    dataset, nameless = tiny_dataset(3), export(f"{MODELS}:nameless", inputs=(MODELS,))
    flags = ("--target", "predicted", "--device", "cpu", "--out", tmp_path / "maps")
    done = camflow("annotate", "--dataset", dataset.name, "--class", "light", "--model", nameless, *flags, code=2)
    assert "give the channel's number" in done.stderr
    camflow("annotate", "--dataset", dataset.name, "--class", "1", "--model", nameless, *flags)
    dataset.reload()
    assert "1_grad_layer_1" in dataset.get_field_schema()
