"""Images in slices (`--slice-height`): seams, targets across slices, what is up to date, what is refused, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import camflow as package
import cv2
import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from pytorch_grad_cam import LayerCAM

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import hugging_face_folders
import sliced_models
import transformers
from small_detector import SIZE, corners, picture, reference, tensor

SOURCE = HERE / "sliced_models.py"


@pytest.fixture(scope="module")
def local(export) -> Path:
    return export(f"{SOURCE}:local", inputs=(SOURCE,))


@pytest.fixture(scope="module")
def classifier(export) -> Path:
    return export(f"{SOURCE}:classifier", inputs=(SOURCE,))


@pytest.fixture(scope="module")
def cropping(export) -> Path:
    return export(f"{SOURCE}:cropping", inputs=(SOURCE,))


@pytest.fixture
def make(database, request, tmp_path):
    """Makes datasets of pictures of noise with these labels, by field."""
    made = []

    def dataset(*sizes, **fields):
        dataset = fo.Dataset(f"{request.node.name}-{len(made)}", persistent=True)
        made.append(dataset)
        dataset.default_mask_targets = sliced_models.CLASSES
        for number, (height, width) in enumerate(sizes):
            path = tmp_path / f"{len(made)}-{number}.png"
            Image.fromarray(np.random.default_rng(number).integers(0, 255, (height, width, 3), np.uint8)).save(path)
            dataset.add_sample(fo.Sample(str(path), **{name: value(height, width) for name, value in fields.items()}))
        return dataset

    yield dataset
    for dataset in made:
        if fo.dataset_exists(dataset.name):
            fo.delete_dataset(dataset.name)


def mask_of(top, left, bottom, right):
    """A mask in which that part is of class 1."""

    def mask(height, width):
        values = np.zeros((height, width), np.uint8)
        values[top:bottom, left:right] = 1
        return fo.Segmentation(mask=values)

    return mask


@pytest.fixture
def annotate(camflow, local, tmp_path):
    """Runs `camflow annotate` with the local network; what it counted."""

    def run(dataset, *flags, code=0, model=local, out="out"):
        arguments = ["--dataset", dataset.name, "--class", "cat", "--layers", "layer2", "--model", model, "--exact"]
        arguments += ["--out", tmp_path / out, "--format", "json", "--batch-size", 3, "--target", "labels:truth"]
        done = camflow("annotate", *arguments, *flags, code=code)
        dataset.reload()
        return done

    return run


def finished(done) -> dict:
    return next(event for event in done.events if event["event"] == "run_finished")


def floats(label) -> np.ndarray:
    """The exact floats as they are stored."""
    return np.load(label["npy_path"])


def scaled(map_: np.ndarray) -> np.ndarray:
    map_ = np.maximum(map_, 0)
    map_ = map_ - map_.min()
    return map_ / (map_.max() + 1e-7)


def saliency(model, pixels: np.ndarray, mask: np.ndarray, method: str) -> np.ndarray:
    """By plain PyTorch: LayerCAM's or Grad-CAM's map of layer 2, before it is clipped."""
    image = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.25
    kept = {}
    hook = model.layer2.register_forward_hook(lambda _module, _inputs, output: kept.update(output=output))
    logits = model(image)
    hook.remove()
    rows, columns = (np.arange(logits.shape[2 + axis]) * mask.shape[axis] // logits.shape[2 + axis] for axis in (0, 1))
    score = (logits[0, 1] * torch.from_numpy(mask[rows][:, columns]).float()).sum()
    (gradient,) = torch.autograd.grad(score, kept["output"])
    weights = gradient.clamp(min=0) if method == "layercam" else gradient.mean((2, 3), keepdim=True)
    return (weights * kept["output"]).sum(1)[0].detach().numpy()


def test_a_network_that_sees_little_gives_the_map_of_the_whole_image(make, annotate):
    dataset = make((256, 320), truth=mask_of(40, 50, 200, 290))
    methods = ("--method", "layercam,hirescam")
    annotate(dataset, *methods, "--field", "{class}_{method}_whole")
    done = annotate(
        dataset,
        *methods,
        "--field",
        "{class}_{method}_slices",
        "--slice-height",
        96,
        "--overlap-height-ratio",
        0.5,
        "--overlap-width-ratio",
        0.55,
    )
    assert finished(done)["num_committed"] == 1
    sample = dataset.first()
    for method in ("layercam", "hirescam"):
        whole, slices = (sample[f"cat_{method}_{kind}"] for kind in ("whole", "slices"))
        assert floats(whole).shape == floats(slices).shape == (64, 80)
        assert np.abs(floats(whole) - floats(slices)).max() < 1e-5, method
        assert floats(slices).max() > 0.99
        # The picture and what is measured are those of the whole image, too.
        pictures = [np.asarray(Image.open(label["map_path"]), int) for label in (whole, slices)]
        assert pictures[0].shape == (256, 320) and np.abs(pictures[0] - pictures[1]).max() <= 1
        for measure in ("energy_inside", "object_area", "entropy"):
            assert abs(whole[measure] - slices[measure]) < 1e-4, measure
        assert np.abs(package.load(slices) - package.load(whole)).max() < 1e-5
    pixels, mask = np.asarray(Image.open(sample.filepath)), sample.truth.mask == 1
    reference = scaled(saliency(sliced_models.local(), pixels, mask, "layercam"))
    assert np.abs(reference - floats(sample["cat_layercam_slices"])).max() < 1e-5


def ramp(distance: float, overlap: float) -> float:
    return min(max((distance - overlap / 4) / (overlap / 2), 0), 1)


def axis(starts: list[int], size: int, length: int, cell: int) -> np.ndarray:
    """How much each slice counts at each place: `[slices, places]`, of places of so many pixels."""
    weights = []
    for index, start in enumerate(starts):
        row = []
        for place in range(-(-length // cell)):
            position = min((place + 0.5) * cell, length - 0.5)
            weight = 1.0 if start <= position <= start + size else 0.0
            if weight and index > 0:
                weight = min(weight, ramp(position - start, starts[index - 1] + size - start))
            if weight and index + 1 < len(starts):
                weight = min(weight, ramp(start + size - position, start + size - starts[index + 1]))
            row.append(weight)
        weights.append(row)
    return np.array(weights) / np.sum(weights, 0)


def test_each_slice_has_its_own_channel_weights_and_all_have_one_scale(make, annotate):
    dataset = make((160, 192), truth=mask_of(10, 10, 150, 180))
    annotate(
        dataset,
        "--method",
        "gradcam",
        "--field",
        "{class}",
        "--slice-height",
        64,
        "--slice-width",
        96,
        "--overlap-height-ratio",
        0.25,
        "--overlap-width-ratio",
        0.5,
    )
    sample = dataset.first()
    pixels, mask = np.asarray(Image.open(sample.filepath)), sample.truth.mask == 1
    tops, lefts = [0, 48, 96], [0, 48, 96]
    rows, columns = axis(tops, 64, 160, 4), axis(lefts, 96, 192, 4)
    merged = np.zeros((40, 48))
    for top, of_rows in zip(tops, rows, strict=True):
        for left, of_columns in zip(lefts, columns, strict=True):
            window = np.s_[top : top + 64, left : left + 96]
            part = saliency(sliced_models.local(), pixels[window], mask[window], "gradcam")
            place = np.s_[top // 4 : top // 4 + 16, left // 4 : left // 4 + 24]
            merged[place] += part * np.outer(of_rows, of_columns)[place]
    assert np.abs(scaled(merged) - floats(sample["cat"])).max() < 1e-5
    whole = scaled(saliency(sliced_models.local(), pixels, mask, "gradcam"))
    assert np.abs(whole - floats(sample["cat"])).max() > 0.01, "nothing was to see of it"


def box_of(top, left, bottom, right):
    def detections(height, width):
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        return fo.Detections(
            detections=[fo.Detection(label="cat", bounding_box=box), fo.Detection(label="dog", bounding_box=box)]
        )

    return detections


def test_a_box_across_slices_is_a_mask_across_slices_and_nothing_else_is_run(make, annotate):
    bounds = (50, 20, 90, 150)
    dataset = make((256, 320), truth=mask_of(*bounds), boxes=box_of(*bounds))
    slices = ("--method", "layercam", "--slice-width", 64)
    annotate(dataset, *slices, "--field", "of_mask")
    annotate(dataset, *slices, "--field", "of_boxes", "--target", "labels:boxes")
    sample = dataset.first()
    of_mask, of_boxes = floats(sample["of_mask"]), floats(sample["of_boxes"])
    assert np.array_equal(of_mask, of_boxes) and sample["of_mask"].score == sample["of_boxes"].score
    assert sample["of_mask"].object_area == pytest.approx((90 - 50) * (150 - 20) / (256 * 320), rel=0.02)
    # What has none of the class is zero, and what has some of it is not.
    assert (of_mask[36:] == 0).all() and (of_mask[:, 56:] == 0).all()
    inside = of_mask[13:22, 6:37]
    assert inside.sum() > 0.7 * of_mask.sum() and (inside.mean(0) > 0.02).all()


def test_an_image_that_fits_one_slice_gives_the_bytes_of_before(make, annotate):
    dataset = make((60, 64), (64, 40), truth=mask_of(10, 10, 50, 40))
    same = ("--batch-size", 1, "--method", "gradcam")
    annotate(dataset, *same, "--field", "whole")
    annotate(dataset, *same, "--field", "slices", "--slice-height", 64)
    for sample in dataset:
        for key in ("map_path", "npy_path"):
            assert Path(sample["whole"][key]).read_bytes() == Path(sample["slices"][key]).read_bytes()
        of_whole, of_slices = (json.loads(sample[name].to_json()) for name in ("whole", "slices"))
        for changed in ("_id", "map_path", "npy_path", "fingerprint"):
            of_whole.pop(changed), of_slices.pop(changed)
        assert of_whole == of_slices


def test_slices_are_part_of_what_is_up_to_date(make, annotate):
    dataset = make((100, 130), (64, 64), truth=mask_of(10, 10, 90, 90))
    method = ("--method", "layercam", "--field", "cat")
    slices = (*method, "--slice-height", 64)
    assert finished(annotate(dataset, *slices))["num_committed"] == 2
    again = finished(annotate(dataset, *slices))
    assert (again["num_committed"], again["skipped"]) == (0, {"up to date": 2})
    for flags, said in (
        (method, "made with `slice-height = 64`, this run has `null`"),
        ((*method, "--slice-height", 32), "made with `slice-height = 64`, this run has `32`"),
        ((*slices, "--overlap-width-ratio", 0.5), "made with `overlap-width-ratio = 0.2`, this run has `0.5`"),
    ):
        done = annotate(dataset, *flags, code=2)
        assert said in done.stdout + done.stderr
    assert finished(annotate(dataset, *slices, "--overlap-width-ratio", 0.5, "--replace"))["num_committed"] == 2
    info = dataset.get_run_info(dataset.list_runs()[0])
    assert info.config.settings["slice-height"] == "64" and info.config.settings["overlap-width-ratio"] == "0.5"


def test_what_the_model_predicts_is_taken_of_all_slices(make, annotate):
    dataset = make((256, 320), truth=mask_of(0, 0, 256, 320))
    predicted = ("--method", "layercam", "--target", "predicted")
    annotate(dataset, *predicted, "--field", "whole")
    annotate(
        dataset,
        *predicted,
        "--field",
        "slices",
        "--slice-height",
        96,
        "--overlap-height-ratio",
        0.5,
        "--overlap-width-ratio",
        0.5,
    )
    whole, slices = dataset.first()["whole"], dataset.first()["slices"]
    assert np.abs(floats(whole) - floats(slices)).max() < 1e-5
    for measure in ("object_area", "energy_inside", "confidence"):
        assert whole[measure] == pytest.approx(slices[measure], abs=5e-3), measure
    annotate(dataset, "--method", "layercam", "--target", "pixel=100,70", "--field", "pixel", "--slice-height", 64)
    where = np.argwhere(floats(dataset.first()["pixel"]) > 0) * 4
    assert len(where) and (np.abs(where - (70, 100)).max() <= 12)


def test_a_classifier_looks_for_its_class_in_every_slice(make, annotate, classifier):
    dataset = make((200, 230), truth=lambda *_: fo.Classification(label="cat"))
    done = annotate(dataset, "--slice-height", 100, "--field", "cat", model=classifier)
    assert finished(done)["num_committed"] == 1
    label = dataset.first()["cat"]
    # A slice of 100 pixels gives 16 places, so that the image has 32 x 37.
    assert floats(label).shape == (32, 37)
    assert 0 < label.confidence < 1
    assert np.asarray(Image.open(label["map_path"])).shape == (128, 147)


def test_what_a_crop_leaves_out_is_at_the_edge_alone(make, annotate, cropping):
    dataset = make((160, 160), truth=mask_of(0, 0, 160, 160))
    annotate(dataset, "--slice-height", 64, "--field", "cat", "--method", "layercam", model=cropping)
    picture = np.asarray(Image.open(dataset.first()["cat"]["map_path"]))
    assert (picture[:7] == 0).all() and (picture[:, :7] == 0).all() and (picture[-7:] == 0).all()
    assert (picture[9:-9, 9:-9] > 0).all(), "the model saw that"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--target", "top"), "`target = top` is one class for the whole image"),
        (("--method", "scorecam,gradcam,fullgrad"), "`scorecam`, `fullgrad` cannot be put together of slices"),
        (("--layers", "auto"), "name the layers"),
        (("--aug-smooth",), "`aug-smooth` is a mean of scaled heatmaps"),
        (("--faithfulness",), "`faithfulness` asks the model about the whole image"),
        (("--per-detection",), "`per-detection` has a heatmap for each object"),
        (("--target", "similar=a.jpg"), "a similarity"),
    ],
)
def test_what_does_not_go_with_slices_is_refused_by_name(camflow, local, flags, said):
    arguments = ["annotate", "--dataset", "none", "--class", "cat", "--model", local, "--slice-height", 64, *flags]
    assert said in camflow(*arguments, code=2).stderr


def test_ratios_without_slices_are_refused(camflow, local):
    arguments = ["annotate", "--dataset", "none", "--class", "cat", "--model", local]
    assert "do nothing without slices" in camflow(*arguments, "--overlap-width-ratio", 0.3, code=2).stderr
    assert "from 0 to 0.9" in camflow(*arguments, "--slice-width", 9, "--overlap-width-ratio", 1, code=2).stderr


def test_a_slice_that_fails_costs_its_image_and_says_where_it_is(make, annotate, local):
    # A heatmap of the image's own size has its limit, and is not needed.
    dataset = make((5000, 7000), truth=mask_of(0, 0, 500, 500))
    done = annotate(dataset, "--slice-height", 512, "--size", "image", "--field", "cat", code=1)
    (failed,) = (event for event in done.events if event["event"] == "sample_failed")
    assert "5000 x 7000 pixels would be too large" in failed["error"] and "leave out `--size image`" in failed["error"]


def test_explain_takes_slices_too(camflow, local, make, annotate, tmp_path):
    dataset = make((256, 320), truth=mask_of(40, 50, 200, 290))
    mask = np.zeros((256, 320), np.uint8)
    mask[40:200, 50:290] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    slices = ("--slice-height", 64, "--method", "layercam", "--layers", "layer2", "--exact")
    annotate(dataset, *slices[:4], "--field", "cat")
    path = dataset.first().filepath
    done = camflow(
        "explain",
        path,
        "--model",
        local,
        "--class",
        "cat",
        "--mask",
        tmp_path / "mask.png",
        "--out",
        tmp_path / "explained",
        "--format",
        "json",
        *slices,
    )
    (event,) = (event for event in done.events if event["event"] == "heatmap")
    ours = np.load(next(file for file in event["files"] if file.endswith(".npy")))
    assert np.abs(ours - package.load(dataset.first()["cat"])).max() < 1e-5
    assert "`target = top`" in camflow("explain", path, "--model", local, "--slice-height", 64, code=2).stderr


def test_a_detector_finds_the_boxes_of_each_slice(camflow, database, tmp_path, request):
    """Four pictures side by side are four slices: the map of the one that has the dog is pytorch_grad_cam's, and no other is run."""
    folder = hugging_face_folders.save(hugging_face_folders.detr, tmp_path / "detr")
    detector = transformers.DetrForObjectDetection.from_pretrained(folder).eval()
    camflow("export", folder, "--out", tmp_path / "detr.pt2")
    pictures = [picture(number) for number in range(4)]
    Image.fromarray(np.vstack([np.hstack(pictures[:2]), np.hstack(pictures[2:])])).save(tmp_path / "all.png")
    with torch.no_grad():
        left, top, right, bottom = (
            corners(detector(pixel_values=tensor(pictures[1])).pred_boxes)[0].clip(0, 1).numpy()[5].astype(float)
        )
    box = [left, top, right - left, bottom - top]
    dog = fo.Detection(label="dog", bounding_box=[0.5 + left / 2, top / 2, box[2] / 2, box[3] / 2])
    dataset = fo.Dataset(request.node.name, persistent=True)
    try:
        dataset.add_sample(fo.Sample(str(tmp_path / "all.png"), truth=fo.Detections(detections=[dog])))
        slices = ["--slice-height", SIZE[0], "--slice-width", SIZE[1], "--overlap-height-ratio", 0, "--overlap-width-ratio", 0]
        arguments = [
            "--dataset",
            dataset.name,
            "--model",
            tmp_path / "detr.pt2",
            "--out",
            tmp_path / "maps",
            "--device",
            "cpu",
            "--exact",
        ]
        camflow("annotate", *arguments, *slices, "--target", "labels:truth", "--class", "dog", "--field", "dog")
        dataset.reload()
        label = dataset.first()["dog"]
        wanted, score = reference(LayerCAM, detector, pictures[1], [box], 1)
        found = floats(label)
        assert found.shape == (10, 12) and label.score == pytest.approx(score, rel=1e-4, abs=1e-5)
        assert (found[5:] == 0).all() and (found[:, :6] == 0).all()
        assert np.abs(scaled(cv2.resize(found[:5, 6:], SIZE[::-1])) - wanted).max() < 1e-3
        assert label.object_area == pytest.approx(box[2] * box[3] / 4, rel=0.1)
    finally:
        fo.delete_dataset(dataset.name)


# Runs camflow and says what it took: the peak of a child begins with that of its parent, which is small here.
LAUNCHER = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=850)
print(json.dumps({"code": done.returncode, "err": done.stderr, "peak": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10}))
"""


def peak_of(binary, model, dataset, *flags) -> int:
    """Bytes that annotating cats at `layer2` took at most."""
    command = [binary, "annotate", "--dataset", dataset.name, "--model", model, "--class", "cat", "--layers", "layer2", *flags]
    command = [sys.executable, "-c", LAUNCHER, *map(str, command)]
    done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert done["code"] == 0, done["err"]
    return done["peak"]


def test_memory_does_not_grow_with_the_number_of_slices(database, binary, local, make, tmp_path):
    """What stays of a slice must not lie between what the next ones need."""
    peaks = {}
    for side in (500, 4000):
        dataset = make((side, side))
        flags = ("--out", tmp_path / "out", "--slice-height", 256, "--target", "predicted", "--batch-size", 1)
        peaks[side] = peak_of(binary, local, dataset, *flags)
    # The image has 48 MB, its map 4 MB, its heatmap and picture 21 MB.
    assert peaks[4000] - peaks[500] < 200 << 20, peaks


# A process of its own, as the picture takes 1.2 GB there, too.
DRAW = """
import sys
import numpy as np
from PIL import Image
side = int(sys.argv[2])
part = np.random.default_rng(0).integers(0, 255, (side // 40, side // 40, 3), np.uint8)
packed = {"quality": 50} if sys.argv[1].endswith("jpg") else {"compression": "jpeg"}
Image.fromarray(np.tile(part, (40, 40, 1))).save(sys.argv[1], **packed)
"""


def test_large_images_wait_for_each_other_and_small_ones_do_not(make, annotate):
    """One large image is in memory at a time, from when it is decoded until its last slice is explained."""
    dataset = make((6000, 6000), (60, 50), (6100, 5900), (64, 64), (5900, 6100), truth=mask_of(0, 0, 60, 50))
    done = annotate(dataset, "--slice-height", 512, "--field", "cat", "--workers", 4, "--method", "layercam")
    assert finished(done)["num_committed"] == 5
    sizes = [Image.open(path).size for path in dataset.values("cat.map_path")]
    assert sizes == [(2048, 2048), (50, 60), (1981, 2048), (64, 64), (2048, 1981)]


@pytest.mark.long
def test_an_image_of_20000_pixels_a_side_takes_2_gib_at_most(database, binary, local, tmp_path, request):
    dataset = fo.Dataset(request.node.name, persistent=True)
    try:
        peaks = {}
        for name, side, parts in (("small.jpg", 1000, 2), ("large.jpg", 20_000, 1), ("large.tif", 20_000, 1)):
            path = tmp_path / name
            subprocess.run([sys.executable, "-c", DRAW, path, str(side)], check=True)
            box = fo.Detection(label="cat", bounding_box=[0.4, 0.4, 0.1 * parts, 0.1 * parts])
            dataset.add_sample(fo.Sample(str(path), truth=fo.Detections(detections=[box]), tags=[name]))
            flags = ("--out", tmp_path / "out", "--slice-height", 512, "--tags", name, "--batch-size", 2)
            peaks[name] = peak_of(binary, local, dataset, *flags)
            path.unlink()
        print({name: f"{peak / 2**30:.2f} GiB" for name, peak in peaks.items()})
        assert max(peaks["large.jpg"], peaks["large.tif"]) - peaks["small.jpg"] < 2 << 30
        dataset.reload()
        label = dataset.match_tags("large.jpg").first()["cat_layercam_layer_layer2"]
        # A map of a place for every fourth pixel would have 25 million: four are one.
        assert Image.open(label["map_path"]).size == np.load(label["npy_path"]).shape == (2500, 2500)
        assert label.object_area == pytest.approx(0.01, rel=0.01) and label.energy_inside > 0.5
    finally:
        fo.delete_dataset(dataset.name)


def test_what_slices_lie_on_is_measured_over_the_whole_image(make, annotate):
    """Beside the classes of a mask, and of boxes across slices."""
    boxes = fo.Detections(detections=[fo.Detection(label="sea", bounding_box=[0.5, 0.25, 0.5, 0.75])])
    dataset = make((150, 200), truth=mask_of(20, 30, 90, 120), boxes=lambda *_: boxes.copy())
    slices = ("--method", "layercam", "--slice-height", 64)
    annotate(dataset, *slices, "--field", "cam", "--attention-on", "truth")
    [own] = [one for one in dataset.first().cam.attention if one.label == "cat"]
    label = dataset.first().cam
    assert (own.share, own.area) == pytest.approx((label.energy_inside, label.object_area), rel=1e-9)
    annotate(dataset, *slices, "--field", "cam", "--attention-on", "boxes")
    label = dataset.first().cam
    heatmap = package.load(label).astype(float)
    mask = np.zeros((150, 200), bool)
    mask[int(0.25 * 150) :, 100:] = True
    rows, columns = (np.arange(new) * old // new for new, old in zip(heatmap.shape, mask.shape, strict=True))
    mask = mask[np.ix_(rows, columns)]
    sea = label.attention[0] if label.attention[0].label == "sea" else label.attention[1]
    assert (sea.share, sea.area) == pytest.approx((heatmap[mask].sum() / heatmap.sum(), mask.mean()), rel=1e-5)
