"""Images of 16 bits, of floats, of several bands and as arrays, and the geometry of other libraries: what the model is given, and maps of it.

The references are Pillow (resizing, of floats in its mode F), OpenCV (letterbox) and PyTorch.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path

import band_models
import cv2
import numpy as np
import pytest
import tifffile
from conftest import ROOT
from PIL import Image
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

MODELS = Path(band_models.__file__)
RANDOM = np.random.default_rng(3)
SIZE = (40, 48)
STEPS = [
    {"op": "resize", "height": SIZE[0], "width": SIZE[1]},
    {"op": "normalize", "mean": [0.5] * 4, "std": [0.25] * 4, "divide_by": 65535},
]


def given(path: Path, steps: list[dict]) -> dict:
    """What the program makes of a file by these steps: `input` [C, H, W] and `region`, or `error`."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    line = f"input {path}\t{json.dumps(steps)}\n"
    program = target / "debug" / "examples" / "pixels"
    answer = json.loads(subprocess.run([program], input=line, capture_output=True, text=True, check=True).stdout)
    if "error" not in answer:
        answer["input"] = np.frombuffer(base64.b64decode(answer["pixels"]), np.float32).reshape(answer["shape"])
    return answer


def by_pillow(image: np.ndarray, size: tuple[int, int] = SIZE) -> np.ndarray:
    """[C, H, W]: each channel resized as a float image of Pillow's."""
    bands = [Image.fromarray(image[:, :, channel].astype(np.float32)) for channel in range(image.shape[2])]
    return np.stack([np.asarray(band.resize(size[::-1], Image.BILINEAR)) for band in bands])


def normalized(resized: np.ndarray, largest: float) -> np.ndarray:
    return (resized / np.float32(largest) - np.float32(0.5)) / np.float32(0.25)


def write_tiff(path: Path, image: np.ndarray) -> None:
    planes = {} if image.shape[2] == 1 else {"planarconfig": "contig"}
    tifffile.imwrite(path, image.squeeze(), photometric="minisblack", **planes)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[np.ndarray, list[Path]]:
    """An image u16 [61, 73, 4], and files that hold its samples."""
    folder = tmp_path_factory.mktemp("bands")
    image = RANDOM.integers(0, 65536, (61, 73, 4), np.uint16)
    planes = np.moveaxis(image, 2, 0)
    gray = {"photometric": "minisblack", "planarconfig": "contig"}
    tiffs = {
        "chunky": (image, gray),
        "planar": (planes, {"photometric": "minisblack", "planarconfig": "separate"}),
        "planar-deflate": (planes, {"photometric": "minisblack", "planarconfig": "separate", "compression": "zlib"}),
        "rgba": (image, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        "tiles": (image, {**gray, "tile": (32, 32), "compression": "zlib"}),
        "big-endian": (image.astype(">u2"), {**gray, "byteorder": ">"}),
        "floats": (image.astype(np.float32), gray),
        "doubles": (image.astype(np.float64), gray),
        "integers": (image.astype(np.int32), gray),
    }
    for name, (samples, how) in tiffs.items():
        tifffile.imwrite(folder / f"{name}.tif", samples, **how)
    cv2.imwrite(str(folder / "rgba.png"), image[:, :, [2, 1, 0, 3]])
    np.save(folder / "last.npy", image)
    np.save(folder / "first.npy", np.ascontiguousarray(planes))
    np.save(folder / "floats.npy", image.astype(np.float32))
    return image, sorted(folder.iterdir())


def test_all_samples_of_every_kind_of_file_reach_the_model(files):
    image, paths = files
    expected = normalized(by_pillow(image), 65535)
    assert len(paths) == 13
    for path in paths:
        found = given(path, [{"op": "read", "channels": 4, "samples": "0-65535"}, *STEPS])
        assert np.array_equal(found["input"], expected), path


def test_resizing_is_pillows_and_torchs(files):
    image, paths = files
    path = next(path for path in paths if path.name == "chunky.tif")
    for filter_, interpolation in ((Image.BILINEAR, "bilinear"), (Image.BICUBIC, "bicubic"), (Image.LANCZOS, "lanczos")):
        for height, width in ((20, 80), (100, 31), (61, 10)):
            steps = [
                {"op": "read", "channels": 4, "samples": "as-is"},
                {"op": "resize", "height": height, "width": width, "interpolation": interpolation},
                {"op": "normalize", "mean": [0] * 4, "std": [1] * 4, "divide_by": 1},
            ]
            found = given(path, steps)["input"]
            bands = [Image.fromarray(image[:, :, c].astype(np.float32)).resize((width, height), filter_) for c in range(4)]
            assert np.array_equal(found, np.stack([np.asarray(band) for band in bands])), (interpolation, height, width)
            if interpolation != "lanczos":
                tensor = torch.from_numpy(np.moveaxis(image, 2, 0).astype(np.float32))[None]
                theirs = torch.nn.functional.interpolate(tensor, (height, width), mode=interpolation, antialias=True)[0]
                assert np.abs(found - theirs.numpy()).max() < 5e-6 * 65535


@pytest.mark.parametrize(("count", "samples"), [(1, "0-65535"), (2, "as-is"), (3, "0-65535"), (4, "0-255"), (13, "as-is")])
def test_maps_of_models_of_any_number_of_channels(camflow, export, count, samples, tmp_path):
    name = {1: "one", 2: "two", 3: "three", 4: "four", 13: "thirteen"}[count]
    flags = ("--mean", "0.5", "--std", "0.25", "--resize", "32x40", "--samples", samples)
    archive = export(f"{MODELS}:{name}", *flags, inputs=(MODELS,))
    kind, largest = {"0-255": (np.uint8, 255), "0-65535": (np.uint16, 65535), "as-is": (np.float32, 1)}[samples]
    image = (RANDOM.random((61, 73, count)) * largest).astype(kind)
    path = tmp_path / "image.tif"
    write_tiff(path, image)
    pixels = torch.from_numpy(normalized(by_pillow(image, (32, 40)), largest))[None]
    model = getattr(band_models, name)()
    with GradCAM(model=model, target_layers=[model[0]]) as cam:
        theirs = cam(input_tensor=pixels, targets=[ClassifierOutputTarget(1)])[0]
    done = camflow(
        *("explain", path, "--model", archive, "--class", "b", "--target", "predicted", "--device", "cpu", "--exact"),
        *("--format", "json", "--out", tmp_path / "out"),
    )
    found = [file for event in done.events if event["event"] == "heatmap" for file in event["files"]]
    ours = np.load(next(file for file in found if file.endswith(".npy"))).squeeze()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5
    assert any(file.endswith(".overlay.png") for file in found)


def test_what_does_not_fit_the_model_is_refused_by_name(tmp_path):
    def said(name: str, steps: list[dict] | None = None) -> str:
        return given(tmp_path / name, steps or [{"op": "read", "channels": 4, "samples": "0-65535"}, *STEPS])["error"]

    cv2.imwrite(str(tmp_path / "gray.png"), RANDOM.integers(0, 65536, (9, 9), np.uint16))
    cv2.imwrite(str(tmp_path / "bytes.png"), RANDOM.integers(0, 256, (9, 9, 4), np.uint8))
    np.save(tmp_path / "fractions.npy", RANDOM.random((9, 9, 4)).astype(np.float32))
    np.save(tmp_path / "either.npy", np.zeros((4, 9, 4), np.uint16))
    np.save(tmp_path / "nan.npy", np.full((9, 9, 4), np.nan, np.float32))
    np.save(tmp_path / "columns.npy", np.zeros((9, 9, 5), np.uint16))
    (tmp_path / "levels.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    assert "has 1 channel, and the model takes 4" in said("gray.png")
    assert "samples of 8 bits (0 to 255), and the model takes samples of 0 to 65535" in said("bytes.png")
    assert "and the model takes samples of 0 to 65535" in said("fractions.npy")
    assert "the first and the last side may be its channels" in said("either.npy")
    assert "holds the sample NaN" in said("nan.npy")
    assert "[9, 9, 5]" in said("columns.npy") and "[H, W, 4]" in said("columns.npy")
    assert "not read at full depth" in said("levels.ppm")
    # A model of 8-bit colours does not take arrays, and says how to.
    assert "`--samples`" in said("fractions.npy", [{"op": "resize", "height": 8, "width": 8}])


def test_alpha_is_dropped_only_where_it_is_too_much(tmp_path):
    image = RANDOM.integers(0, 65536, (9, 11, 4), np.uint16)
    cv2.imwrite(str(tmp_path / "rgba.png"), image[:, :, [2, 1, 0, 3]])
    for channels in (3, 4):
        steps = [
            {"op": "read", "channels": channels, "samples": "0-65535"},
            {"op": "normalize", "mean": [0] * channels, "std": [1] * channels, "divide_by": 1},
        ]
        found = given(tmp_path / "rgba.png", steps)["input"]
        assert np.array_equal(found, np.moveaxis(image[:, :, :channels], 2, 0))


def by_ultralytics(image: np.ndarray, size: tuple[int, int], stride: int | None) -> np.ndarray:
    """What its LetterBox documents: OpenCV's linear resizing to what fits, 114 around it."""
    height, width = image.shape[:2]
    ratio = min(size[0] / height, size[1] / width)
    inner = round(height * ratio), round(width * ratio)
    missing = [side - within for side, within in zip(size, inner, strict=True)]
    missing = [side % stride for side in missing] if stride else missing
    resized = image if inner == (height, width) else cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    (top, bottom), (left, right) = ((round(side / 2 - 0.1), round(side / 2 + 0.1)) for side in missing)
    return cv2.copyMakeBorder(resized, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))


@pytest.mark.parametrize("shape", [(61, 73), (100, 37), (480, 640), (33, 200), (20, 20), (96, 96)])
def test_letterbox_is_opencvs(shape, tmp_path):
    image = RANDOM.integers(0, 256, (*shape, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    raw = {"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1], "divide_by": 1}
    for size, stride in (((64, 80), None), ((96, 96), None), ((96, 96), 32)):
        step = {"op": "letterbox", "height": size[0], "width": size[1], **({"stride": stride} if stride else {})}
        found = given(tmp_path / "image.png", [step, raw])
        theirs = by_ultralytics(image, size, stride)
        assert np.array_equal(found["input"], np.moveaxis(theirs.astype(np.float32), 2, 0)), (size, stride)
        _, _, top, left = found["region"]
        assert top <= 0 and left <= 0


def test_other_orders_and_paddings(tmp_path):
    image = RANDOM.integers(0, 256, (9, 11, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    planes = np.moveaxis(image.astype(np.float32), 2, 0)
    raw = {"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1], "divide_by": 1}
    caffe = {"op": "normalize", "mean": [103.939, 116.779, 123.68], "std": [1, 1, 1], "divide_by": 1}
    found = given(tmp_path / "image.png", [{"op": "bgr"}, caffe])["input"]
    assert np.array_equal(found, planes[::-1] - np.float32(caffe["mean"])[:, None, None])
    found = given(tmp_path / "image.png", [{"op": "pad", "height": 12, "width": 11, "fill": 7}, raw])["input"]
    assert np.array_equal(found, np.pad(planes, ((0, 0), (0, 3), (0, 0)), constant_values=7))
    # As DPT's processor of Hugging Face: around the image, with what is 0 for the model.
    half = {"op": "normalize", "mean": [0.5] * 3, "std": [0.5] * 3}
    found = given(tmp_path / "image.png", [{"op": "pad_multiple", "of": 8, "fill": "mean", "centered": True}, half])
    expected = np.pad((planes / np.float32(255) - np.float32(0.5)) / np.float32(0.5), ((0, 0), (3, 4), (2, 3)))
    assert np.array_equal(found["input"], expected) and found["region"] == [9, 11, -3, -2]


@pytest.mark.parametrize(
    ("kind", "options", "ops"),
    [
        ("MobileViTImageProcessor", {"do_center_crop": False, "do_flip_channel_order": True}, ["bgr"]),
        ("DPTImageProcessor", {"do_pad": True, "size_divisor": 32}, ["pad_multiple"]),
        ("EomtImageProcessor", {"do_pad": True, "size": {"shortest_edge": 64, "longest_edge": 80}}, ["pad"]),
        ("ViTImageProcessor", {"do_pad": True, "pad_size": {"height": 48, "width": 90}}, ["pad"]),
        ("ViTImageProcessor", {"do_pad": True}, []),
    ],
)
def test_padding_and_order_are_those_of_processors_of_hugging_face(kind, options, ops, tmp_path):
    import transformers
    from camflow.export.transforms import steps_from_processor

    image = RANDOM.integers(0, 256, (37, 75, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    processor = getattr(transformers, kind)(do_resize=False, **options)
    steps = steps_from_processor(processor.to_dict())
    assert [step["op"] for step in steps] == [*ops, "normalize"]
    theirs = np.asarray(processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0])
    ours = given(tmp_path / "image.png", steps)["input"]
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 2e-6


def test_what_ultralytics_says_of_its_letterbox():
    from camflow.export.messages import ExportError
    from camflow.export.transforms import steps_from_transforms

    def letterbox(**more):
        """An object with the attributes of Ultralytics' own, which is no requirement of the tests."""
        usual = {"new_shape": (64, 80), "auto": False, "scale_fill": False, "scaleup": True, "center": True, "stride": 32}
        return type("LetterBox", (), {**usual, "padding_value": 114, **more})()

    step = {"op": "letterbox", "height": 64, "width": 80, "fill": 114}
    assert steps_from_transforms(letterbox()) == [step]
    assert steps_from_transforms(letterbox(auto=True)) == [{**step, "stride": 32}]
    with pytest.raises(ExportError, match="`scaleup=False`"):
        steps_from_transforms(letterbox(scaleup=False))


def test_a_letterboxed_map_lies_over_the_image_alone(camflow, export, tmp_path):
    archive = export(f"{MODELS}:three", "--letterbox", "64", "--preprocess", "none", inputs=(MODELS,))
    image = RANDOM.integers(0, 256, (30, 90, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "wide.png")
    boxed = torch.from_numpy(np.moveaxis(by_ultralytics(image, (64, 64), None), 2, 0).copy()).float()[None] / 255
    model = band_models.three()
    with GradCAM(model=model, target_layers=[model[0]]) as cam:
        theirs = cam(input_tensor=boxed, targets=[ClassifierOutputTarget(1)])[0]
    # 30 x 90 becomes 21 x 64; 43 rows are missing, of which 21 go above it.
    theirs = theirs[21 : 21 + 21]
    done = camflow(
        *("explain", tmp_path / "wide.png", "--model", archive, "--class", "b", "--device", "cpu", "--exact"),
        *("--target", "predicted", "--format", "json", "--out", tmp_path / "out"),
    )
    found = [file for event in done.events if event["event"] == "heatmap" for file in event["files"]]
    ours = np.load(next(file for file in found if file.endswith(".npy"))).squeeze()
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() < 1e-5
    shown = camflow("inspect", archive)
    assert "letterbox to 64x64, padded with 114" in shown.stdout


def test_a_dataset_of_bands_and_arrays(camflow, export, database, tmp_path):
    import fiftyone as fo

    flags = ("--preprocess", "none", "--samples", "0-65535", "--resize", "32x40")
    archive = export(f"{MODELS}:four", *flags, inputs=(MODELS,))
    paths = [tmp_path / "bands.tif", tmp_path / "gray.tif"]
    for path, channels in zip(paths, (4, 1), strict=True):
        image = RANDOM.integers(0, 65536, (30, 40, channels), np.uint16)
        write_tiff(path, image)
    arrays = [tmp_path / "array.npy"]
    np.save(arrays[0], RANDOM.integers(0, 65536, (30, 40, 4), np.uint16))
    for name, media, num_failed in (("bands", paths, 1), ("arrays", arrays, 0)):
        dataset = fo.Dataset(f"full-depth-{name}", persistent=True)
        dataset.add_samples([fo.Sample(str(path)) for path in media], progress=False)
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--database-uri", database, "--model", archive, "--target", "top"),
            *("--field", "map", "--out", tmp_path / name, "--format", "json", "--device", "cpu"),
            code=1 if num_failed else 0,
        )
        dataset.reload()
        assert len(dataset.exists("map")) == 1, name
        if num_failed:
            assert "has 1 channel, and the model takes 4" in done.stdout + done.stderr
        camflow("report", "--dataset", dataset.name, "--database-uri", database, "--out", tmp_path / f"{name}-report")
        fo.delete_dataset(dataset.name)


def test_gray_files_for_a_model_of_colours(camflow, export, tmp_path):
    flags = ("--preprocess", "imagenet", "--samples", "0-65535", "--channels", "1", "--resize", "32x40")
    archive = export(f"{MODELS}:three", *flags, inputs=(MODELS,))
    cv2.imwrite(str(tmp_path / "gray.png"), RANDOM.integers(0, 65536, (30, 40), np.uint16))
    camflow("explain", tmp_path / "gray.png", "--model", archive, "--device", "cpu", "--out", tmp_path / "out")
    shown = json.loads(camflow("inspect", archive, "--format", "json").stdout)
    assert [step["op"] for step in shown["preprocess"]] == ["read", "grayscale", "resize", "normalize"]
    assert shown["preprocess"][-1]["divide_by"] == 65535
