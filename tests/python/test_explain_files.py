"""What the files of `camflow explain` are called: every result has its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archive_copies import copy_archive
from PIL import Image


@pytest.fixture
def look_alikes(tiny_model, tmp_path) -> Path:
    """A model of which two classes have names that are the same in a file's name."""
    names = {"1": "hot dog", "2": "hot_dog"}
    return copy_archive(tiny_model, tmp_path / "model.pt2", lambda metadata: metadata["classes"].update(names))


def picture(path: Path, seed: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (30, 40, 3), np.uint8)).save(path)
    return path


def test_no_result_replaces_another(camflow, look_alikes, tmp_path):
    images = [picture(tmp_path / name, seed) for seed, name in enumerate(("a/x.png", "b/x.png", "a/x.bmp", "a/y z.png"))]

    def explain(*inputs, code=0):
        flags = ("--class", "hot dog,hot_dog", "--target", "pixel=1,1", "--layers", "1", "--format", "json")
        return camflow(
            "explain", *inputs, "--model", look_alikes, *flags, "--device", "cpu", "--out", tmp_path / "maps", code=code
        )

    done = explain(*images)
    heatmaps = [event for event in done.events if event["event"] == "heatmap"]
    files = [file for event in heatmaps for file in event["files"]]
    assert len({file.lower() for file in files}) == len(files) == 4 * 2 * 3
    names = [(event["sample"], Path(event["files"][0]).name) for event in heatmaps]
    assert names[:2] == [(name := "a_x.png", f"{name}.hot_dog_{n}.gradcam.layer_1.npy") for n in (1, 2)]
    assert [sample for sample, _ in names[2::2]] == ["b_x.png", "a_x.bmp", "y_z"]
    told = [event["message"] for event in done.events if event["event"] == "notice"]
    assert any("`a_x.bmp`" in text for text in told) and any("`hot_dog_2`" in text for text in told)
    # Each is what it is by itself.
    for image, event in zip(images, heatmaps[::2], strict=True):
        alone = camflow(
            *("explain", image, "--model", look_alikes, "--class", "1", "--target", "pixel=1,1", "--layers", "1"),
            *("--format", "json", "--device", "cpu", "--out", tmp_path / "alone" / event["sample"]),
        )
        file = next(event for event in alone.events if event["event"] == "heatmap")["files"][0]
        assert Path(file).name == f"{image.stem.replace(' ', '_')}.hot_dog.gradcam.layer_1.npy"
        np.testing.assert_array_equal(np.load(file), np.load(event["files"][0]))

    # The same again is fine, and so is another; another image under a name that is taken is not.
    explain(*images)
    explain(tmp_path / "a" / ".." / "a" / "y z.png")
    before = Path(files[-3]).read_bytes()
    refused = explain(picture(tmp_path / "b" / "Y_Z.png", 9), code=2)
    message = next(event["message"] for event in refused.events if event["event"] == "error")
    assert "a/y z.png" in message and "hint: choose another folder" in message, message
    assert Path(files[-3]).read_bytes() == before


def test_heatmaps_are_animated(camflow, classifier, tmp_path):
    photo = picture(tmp_path / "photo.png", 3)
    flags = ("--model", classifier, "--device", "cpu", "--format", "json")
    command = ("explain", photo, *flags, "--method", "gradcam,layercam", "--layers", "1-2", "--out", tmp_path / "maps")
    assert not any(event["event"] == "animation" for event in camflow(*command).events)
    assert not list((tmp_path / "maps").glob("*.gif"))

    [said] = [event for event in camflow(*command, "--animate").events if event["event"] == "animation"]
    assert (said["sample"], Path(said["file"]).name) == ("photo", "photo.top.heatmaps.gif")
    gif = Image.open(said["file"])
    # The image, then two layers by two methods, without an end.
    assert (gif.format, gif.n_frames, gif.info["loop"], gif.width) == ("GIF", 5, 0, 360)
    columns = [f"{method}.layer_{layer}" for method in ("gradcam", "layercam") for layer in (1, 2)]
    overlays = [Image.open(tmp_path / "maps" / f"photo.top.{column}.overlay.png").convert("RGB") for column in columns]
    wanted = [np.asarray(overlay.resize((360, 270), Image.Resampling.NEAREST), float) for overlay in overlays]
    for number in range(4):
        gif.seek(number + 1)
        assert gif.info["duration"] >= 1000
        # The caption is above the picture.
        drawn = np.asarray(gif.convert("RGB").crop((0, gif.height - 270, 360, gif.height)), float)
        differences = [np.abs(drawn - other).mean() for other in wanted]
        assert differences[number] == min(differences) < 12, differences

    # A tensor has no picture.
    np.save(tmp_path / "tensor.npy", np.zeros((1, 3, 64, 64), np.float32))
    told = camflow("explain", tmp_path / "tensor.npy", *flags, "--animate", "--out", tmp_path / "tensors").events
    assert any(event["event"] == "notice" and "no picture to animate" in event["message"] for event in told)
    assert not list((tmp_path / "tensors").glob("*.gif"))


def test_a_folder_that_is_none_is_said(camflow, classifier, tmp_path):
    photo = picture(tmp_path / "photo.png", 3)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "maps"):
        said = camflow("explain", photo, "--model", classifier, "--device", "cpu", "--out", folder, code=2).stderr
        assert f"error: cannot use the folder `{folder}`\ncaused by: Not a directory" in said
        assert said.endswith("hint: choose another folder with `--out`\n")


def test_a_mask_that_is_hardly_meant_so_is_told(camflow, tiny_model, tmp_path):
    photo = picture(tmp_path / "photo.png", 3)
    mask = np.full((30, 40), 2, np.uint8)
    flags = ("--model", tiny_model, "--device", "cpu", "--class", "light", "--out", tmp_path / "maps", "--format", "json")

    def notices(name, content):
        Image.fromarray(content).save(tmp_path / name)
        done = camflow("explain", photo, *flags, "--mask", tmp_path / name)
        return "\n".join(event["message"] for event in done.events if event["event"] == "notice")

    assert "across" not in (said := notices("mask.png", mask)) and "JPEG" not in said
    assert "mask.png` of 30 x 40 pixels lies across `" in (said := notices("mask.png", mask.T)) and "of 40 x 30, and is" in said
    assert "mask.jpg` is a JPEG file, whose compression changes" in notices("mask.jpg", mask)


def test_layers_that_are_hardly_meant_so_are_told(camflow, classifier, tmp_path):
    photo = picture(tmp_path / "photo.png", 3)

    def notices(*flags):
        flags = (*flags, "--model", classifier, "--device", "cpu", "--out", tmp_path / "maps", "--format", "json")
        return "\n".join(event["message"] for event in camflow("explain", photo, *flags).events if event["event"] == "notice")

    assert "layers `1` and `layer1` are the same module, which is explained twice" in notices("--layers", "1,layer1")
    assert "`--fuse-layers` has nothing to fuse but layer `1`" in notices("--layers", "1", "--fuse-layers")
    said = notices("--layers", "1-2", "--fuse-layers")
    assert "fuse" not in said and "same module" not in said
