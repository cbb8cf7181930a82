"""Boxes and masks of heatmaps, beside OpenCV on the stored heatmaps; thresholds, `MaxBoxAccV2` and `PxAP` beside a reference in numpy
and OpenCV that follows the evaluator of Choe et al. (clovaai/wsolevaluation)."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import camflow as api
import cv2
import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image
from scipy import ndimage
from test_measures import PERSON, crop, resized

FIELD = "thing_grad_layer_1"
THRESHOLDS = np.arange(0, 1, 0.001)
HUNDREDTHS = np.arange(1, 101) / 100
EIGHT = np.ones((3, 3))


# The reference.


def contour_boxes(heatmap: np.ndarray, threshold: float) -> np.ndarray:
    """The boxes around all contours of what is above a share of the highest of 256 levels: first and last column and row."""
    levels = (heatmap.astype(np.float64) * 255).astype(np.uint8)
    _, above = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
    contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    height, width = heatmap.shape
    around = [cv2.boundingRect(contour) for contour in contours]
    boxes = [(x, y, min(x + across, width - 1), min(y + down, height - 1)) for x, y, across, down in around]
    return np.array(boxes or [(0, 0, 0, 0)])


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of each with each, where the last columns and rows belong to the boxes."""
    first = np.maximum(boxes[:, None, :2], others[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    both = np.maximum(last - first + 1, 0).prod(axis=2)
    area = lambda some: (some[:, 2:] - some[:, :2] + 1).prod(axis=1)
    return both / (area(boxes)[:, None] + area(others)[None] - both)


def max_box_acc(maps: list[np.ndarray], truths: list[list[list[float]]]) -> dict[float, float]:
    """By IoU, the share of maps with a box that overlaps a labelled one so far, at the best threshold."""
    found = {iou: np.zeros(len(THRESHOLDS)) for iou in (0.3, 0.5, 0.7)}
    for heatmap, truth in zip(maps, truths, strict=True):
        height, width = heatmap.shape
        wanted = [(int(x * width), int(y * height), int((x + w) * width), int((y + h) * height)) for x, y, w, h in truth]
        best = np.array([overlaps(contour_boxes(heatmap, share), np.array(wanted)).max() for share in THRESHOLDS])
        for iou in found:
            found[iou] += best >= iou
    return {iou: count.max() / len(maps) for iou, count in found.items()}


def px_ap(maps: list[np.ndarray], truths: list[np.ndarray]) -> float:
    """Area under precision by recall of all pixels; of `truths` 1 is the object, 255 counts nowhere."""
    edges = np.append(THRESHOLDS, [1.0, 2.0, 3.0])
    count = lambda value: sum(
        np.histogram(one.astype(np.float64)[truth == value], edges)[0] for one, truth in zip(maps, truths, strict=True)
    )
    inside, outside = (count(value)[::-1].cumsum() for value in (1, 0))
    recall = inside / inside[-1]
    precision = np.divide(inside, inside + outside, out=np.zeros(len(inside)), where=inside + outside > 0)
    return (precision[1:] * np.diff(recall)).sum()


def pixel_ious(heatmap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU by threshold; of `truth` 255 counts nowhere."""
    share = heatmap.astype(np.float64) / max(heatmap.max(), 1e-30)
    known = truth != 255
    marked = [(share >= threshold)[known] for threshold in HUNDREDTHS]
    return np.array([(m & (truth[known] == 1)).sum() / (m | (truth[known] == 1)).sum() for m in marked])


def kept_components(heatmap: np.ndarray, threshold: float, min_area: float = 0.001) -> list[np.ndarray]:
    """The connected parts that reach a threshold, the largest first."""
    share = heatmap.astype(np.float64) / max(heatmap.max(), 1e-30)
    numbers, count = ndimage.label(share >= threshold, EIGHT)
    parts = [numbers == number for number in range(1, count + 1)]
    parts = [part for part in parts if part.sum() >= min_area * heatmap.size]
    return sorted(parts, key=lambda part: -part.sum())


def box_ious(heatmap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU by threshold of the area of all boxes with that of the labelled ones."""
    ious = []
    for threshold in HUNDREDTHS:
        covered = np.zeros(heatmap.shape, bool)
        for part in kept_components(heatmap, threshold):
            rows, columns = np.where(part)
            covered[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        ious.append((covered & truth).sum() / (covered | truth).sum())
    return np.array(ious)


def learnt(ious: list[np.ndarray]) -> dict[str, float]:
    """The best threshold, its mean IoU, that of 15 %, and the mean IoU of each map at the best threshold of the other folds."""
    table = np.array(ious)
    best = table.sum(axis=0).argmax()
    folds = np.arange(len(table)) % 5
    tested = [table[folds == fold][:, table[folds != fold].sum(axis=0).argmax()].sum() for fold in np.unique(folds)]
    return {
        "threshold": HUNDREDTHS[best],
        "iou": table.mean(axis=0)[best],
        "iou_cross_validated": sum(tested) / len(table),
        "iou_at_0.15": table.mean(axis=0)[14],
    }


# Datasets of heatmaps that were not made by a model, so that they can be anything.


def awkward_maps(rng: np.random.Generator) -> list[np.ndarray]:
    """Smooth, noisy, flat, with holes, with ties, with nothing."""
    smooth = lambda scale, shape: ndimage.gaussian_filter(rng.random(shape), scale)
    scaled = lambda values: ((values - values.min()) / (values.max() - values.min())).astype(np.float32)
    maps = [scaled(smooth(scale, shape)) for scale in (0.5, 1, 2, 4) for shape in ((40, 56), (33, 31))]
    maps += [scaled(np.round(smooth(2, (30, 40)) * 60)), rng.random((24, 24)).astype(np.float32)]
    rows, columns = np.mgrid[:48, :48]
    ring = np.exp(-((np.hypot(rows - 24, columns - 22) - 12) ** 2) / 8)
    return [*maps, scaled(ring), np.zeros((20, 20), np.float32), np.float32(0.4) * scaled(smooth(3, (28, 36)))]


@pytest.fixture
def heatmaps(database, tmp_path, request):
    """Makes a dataset of heatmaps of a class that are these arrays, as camflow would have stored them, with other fields."""
    made = []

    def make(maps: list[np.ndarray], label: str = "thing", **fields) -> fo.Dataset:
        dataset = fo.Dataset(f"{request.node.name}-{len(made)}", persistent=True)
        made.append(dataset)
        folder = tmp_path / f"made-{len(made)}"
        folder.mkdir()
        samples = []
        for number, heatmap in enumerate(maps):
            image, npy, png = (folder / f"{number}.{kind}" for kind in ("jpg", "npy", "map.png"))
            Image.new("RGB", (heatmap.shape[1] * 2, heatmap.shape[0] * 2)).save(image)
            np.save(npy, heatmap)
            # 0 is for what the model did not see.
            Image.fromarray(np.maximum(np.round(heatmap * 255), 1).astype(np.uint8)).save(png)
            said = {"target_class": label, "fingerprint": f"made-{number}", "confidence": 0.5 + number / 100}
            said |= {"method": "gradcam", "layer": "layer1", "model": "tiny"}
            values = {name: value[number] for name, value in fields.items()}
            samples.append(fo.Sample(str(image), **{FIELD: fo.Heatmap(map_path=str(png), npy_path=str(npy), **said)}, **values))
        dataset.add_samples(samples, progress=False)
        dataset.add_dynamic_sample_fields()
        return dataset

    yield make
    for dataset in made:
        if fo.dataset_exists(dataset.name):
            fo.delete_dataset(dataset.name)


@pytest.fixture
def localize(camflow, tmp_path):
    """Runs `camflow localize`; what its numbers say of all, with what it said."""

    def run(dataset, *flags, code=0):
        numbers = tmp_path / "numbers.json"
        numbers.unlink(missing_ok=True)
        common = ("--dataset", dataset.name, "--json", numbers, "--out", tmp_path / "maps")
        done = camflow("localize", *common, *flags, code=code)
        dataset.reload()
        done.numbers = json.loads(numbers.read_text()) if numbers.exists() else None
        return done

    return run


def some_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    corners = [np.sort(rng.random((2, 2)), axis=0) for _ in range(count)]
    return [[*map(float, first), *map(float, last - first + 0.02)] for first, last in corners]


def covered(boxes: list[list[float]], shape: tuple[int, int]) -> np.ndarray:
    """The pixels of boxes, as FiftyOne draws them."""
    (height, width), mask = shape, np.zeros(shape, bool)
    side = lambda share, length: int(min(max(share, 0), 1) * length)
    for left, top, across, down in boxes:
        rows = slice(side(top, height), side(top + down, height))
        mask[rows, side(left, width) : side(left + across, width)] = True
    return mask


def test_box_accuracy_is_the_evaluators(heatmaps, localize):
    rng = np.random.default_rng(1)
    maps = awkward_maps(rng)
    truths = [some_boxes(rng, 1 + number % 3) for number in range(len(maps))]
    labels = [
        fo.Detections(
            detections=[fo.Detection(label="thing", bounding_box=box) for box in boxes]
            + [fo.Detection(label="other", bounding_box=[0, 0, 1, 1])]
        )
        for boxes in truths
    ]
    dataset = heatmaps(maps, truth=labels)
    (found,) = localize(dataset, "--truth", "truth").numbers["classes"]
    by_iou = max_box_acc(maps, truths)
    assert found["num_labelled"] == len(maps) and found["px_ap"] is None
    assert {float(iou): share for iou, share in found["max_box_acc"].items()} == pytest.approx(by_iou, abs=1e-6)
    assert found["max_box_acc_v2"] == pytest.approx(np.mean(list(by_iou.values())), abs=1e-6)
    assert 0 < found["max_box_acc_v2"] < 1
    # And one by one, so that none stands in for another.
    for number, sample in enumerate(dataset):
        alone = localize(dataset, "--truth", "truth", "--match", json.dumps({"filepath": sample.filepath}))
        wanted = max_box_acc([maps[number]], [truths[number]])
        said = {float(iou): share for iou, share in alone.numbers["classes"][0]["max_box_acc"].items()}
        assert said == wanted, number


def test_pixel_precision_is_the_evaluators(heatmaps, localize):
    rng = np.random.default_rng(2)
    maps = awkward_maps(rng)
    # 1 is the object, 2 another, 9 is to be ignored.
    masks = [rng.choice([0, 1, 2, 9], size=one.shape, p=[0.5, 0.2, 0.2, 0.1]).astype(np.uint8) for one in maps]
    dataset = heatmaps(maps, truth=[fo.Segmentation(mask=mask) for mask in masks])
    dataset.mask_targets = {"truth": {1: "thing", 2: "other", 9: "void"}}
    dataset.save()
    found = localize(dataset, "--truth", "truth", "--ignore", "void").numbers
    assert found["iou_of"] == "pixels"
    (found,) = found["classes"]
    truths = [np.select([mask == 1, mask == 9], [1, 255], 0) for mask in masks]
    assert found["px_ap"] == pytest.approx(px_ap(maps, truths), abs=1e-6) and found["max_box_acc_v2"] is None
    wanted = learnt([pixel_ious(*pair) for pair in zip(maps, truths, strict=True)])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    (all_pixels,) = localize(dataset, "--truth", "truth").numbers["classes"]
    assert all_pixels["px_ap"] == pytest.approx(px_ap(maps, [(mask == 1).astype(int) for mask in masks]), abs=1e-6)
    # Objects with masks of their own: both figures.
    instances = []
    for mask in masks:
        rows, columns = np.where(mask == 1)
        (top, bottom), (left, right) = ((side.min(), side.max() + 1) for side in (rows, columns))
        height, width = mask.shape
        box = [left / width, top / height, (right - left) / width, (bottom - top) / height]
        instances.append(
            fo.Detections(detections=[fo.Detection(label="thing", bounding_box=box, mask=mask[top:bottom, left:right] == 1)])
        )
    dataset = heatmaps(maps, truth=instances)
    numbers = localize(dataset, "--truth", "truth").numbers
    (found,) = numbers["classes"]
    assert numbers["iou_of"] == "pixels" and found["max_box_acc_v2"] is not None
    assert found["px_ap"] == pytest.approx(all_pixels["px_ap"], abs=1e-6)


def test_thresholds_are_learnt_on_boxes(heatmaps, localize):
    rng = np.random.default_rng(3)
    maps = awkward_maps(rng)[:9]
    truths = [some_boxes(rng, 1 + number % 2) for number in range(len(maps))]
    labels = [fo.Detections(detections=[fo.Detection(label="Thing", bounding_box=box) for box in boxes]) for boxes in truths]
    dataset = heatmaps(maps, truth=labels)
    done = localize(dataset, "--truth", "truth", "--boxes", "found")
    (found,) = done.numbers["classes"]
    wanted = learnt([box_ious(one, covered(boxes, one.shape)) for one, boxes in zip(maps, truths, strict=True)])
    assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-6) and done.numbers["iou_of"] == "boxes"
    for sample, heatmap in zip(dataset, maps, strict=True):
        parts = kept_components(heatmap, found["threshold"])
        label = sample["found"]
        assert label.learnt_on == "truth" and label.thresholds == [found["threshold"]] and label.heatmaps == [FIELD]
        assert len(label.detections) == len(parts)
        height, width = heatmap.shape
        boxes = {tuple(np.round(one.bounding_box, 9)): one for one in label.detections}
        for part in parts:
            rows, columns = np.where(part)
            box = [
                columns.min() / width,
                rows.min() / height,
                np.ptp(columns) / width + 1 / width,
                np.ptp(rows) / height + 1 / height,
            ]
            one = boxes[tuple(np.round(box, 9))]
            assert one.heat == pytest.approx(float(heatmap[part].mean()), rel=1e-6)
            assert (one.label, one.confidence) == ("thing", sample[FIELD].confidence)
            assert (one.threshold, one.heatmap, one.layer) == (found["threshold"], FIELD, "layer1")
    # The same command again finds nothing to do, and the largest part alone is another label.
    again = localize(dataset, "--truth", "truth", "--boxes", "found")
    assert (again.numbers["num_written"], again.numbers["num_up_to_date"]) == (0, len(maps))
    localize(dataset, "--threshold", found["threshold"], "--boxes", "found", "--largest")
    assert max(len(sample["found"].detections) for sample in dataset) == 1 and dataset.first()["found"].learnt_on is None


def test_a_class_without_labels_takes_the_threshold_of_the_others(heatmaps, localize):
    """As with `--target top`, where a field has heatmaps of many classes."""
    rng = np.random.default_rng(12)
    maps = blobs(6, rng)
    truths = [some_boxes(rng, 1) for _ in maps]
    labels = [fo.Detections(detections=[fo.Detection(label="thing", bounding_box=box) for box in boxes]) for boxes in truths]
    dataset = heatmaps(maps, truth=labels)
    for sample in dataset[4:]:
        sample[FIELD].target_class = "rare"
        sample.save()
    done = localize(dataset, "--truth", "truth", "--boxes", "found", "--masks", "cut")
    thing, rare, all_of_them = sorted(done.numbers["classes"], key=lambda one: ["thing", "rare", None].index(one["class"]))
    wanted = learnt([box_ious(one, covered(boxes, one.shape)) for one, boxes in zip(maps[:4], truths[:4], strict=True)])
    assert {name: thing[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert (thing["threshold_source"], rare["threshold_source"]) == ("learnt", "learnt on other classes")
    assert (rare["threshold"], rare["num_labelled"], rare["iou"]) == (thing["threshold"], 0, None)
    assert all_of_them["iou"] == pytest.approx(thing["iou"]) and done.numbers["num_without_object"] == 2
    assert {one.label for one in dataset.last()["found"].detections} == {"rare"}
    assert dataset.mask_targets["cut"] == {1: "rare", 2: "thing"}


# Heatmaps of networks.


@pytest.fixture
def people(quickstart, clone):
    source = fo.load_dataset(quickstart)
    return clone(source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()][:8]))


@pytest.fixture
def annotate(camflow, tmp_path):
    def run(dataset, model, *flags):
        common = ("--dataset", dataset.name, "--model", model, "--device", "cpu", "--out", tmp_path / "maps", "--workers", 2)
        camflow("annotate", *common, *flags)
        dataset.reload()

    return run


def test_masks_and_boxes_of_a_network(people, annotate, localize, standin_model, camflow, tmp_path):
    annotate(people, standin_model, "--class", "person", "--layers", "4", "--target", "labels:resnet50_seg")
    field = "person_grad_layer_4"
    done = localize(people, "--truth", "ground_truth", "--boxes", "found", "--masks", "cut")
    (said,) = done.numbers["classes"]
    assert "person" in done.stdout and f"{said['threshold']:.2f} learnt" in done.stdout
    threshold, labelled = said["threshold"], []
    for sample in people:
        heatmap = load(sample[field])
        # The names of its values are the dataset's.
        value = next(number for number, name in people.default_mask_targets.items() if name == "person")
        truth = resized(sample.ground_truth.mask == value, heatmap.shape)
        if truth.any():
            labelled.append((heatmap, truth.astype(int)))
        wanted = np.logical_or.reduce([np.zeros(heatmap.shape, bool), *kept_components(heatmap, threshold)])
        number = people.mask_targets["cut"] if "cut" in people.mask_targets else people.default_mask_targets
        (person,) = [value for value, name in number.items() if name == "person"]
        assert np.array_equal(sample["cut"].get_mask(), wanted * person)
        assert len(sample["found"].detections) == len(kept_components(heatmap, threshold))
    assert said["num_labelled"] == len(labelled)
    assert said["px_ap"] == pytest.approx(px_ap(*zip(*labelled, strict=True)), abs=1e-6)
    wanted = learnt([pixel_ious(*pair) for pair in labelled])
    assert {name: said[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    # FiftyOne has them as its own: it declares nothing that was not declared, and reads, filters and evaluates them.
    schema = people.get_field_schema(flat=True)
    people.add_dynamic_sample_fields()
    assert people.get_field_schema(flat=True).keys() == schema.keys()
    assert people.filter_labels("found", fo.ViewField("heat") > 0).count("found.detections") > 0
    # A second run has nothing to do, whatever it learns; a file that is gone is made again, and nothing else.
    files = lambda: {path: path.stat().st_mtime_ns for path in (tmp_path / "maps" / "cut").rglob("*.png")}
    before = files()
    again = localize(people, "--truth", "ground_truth", "--boxes", "found", "--masks", "cut")
    assert again.numbers["num_written"] == 0 and files() == before
    gone = Path(people.first()["cut"].mask_path)
    content = gone.read_bytes()
    gone.unlink()
    again = localize(people, "--truth", "ground_truth", "--boxes", "found", "--masks", "cut")
    assert again.numbers["num_written"] == 1 and gone.read_bytes() == content
    # Another threshold: other names, and the files that it replaces go with their grace period.
    localize(people, "--threshold", "0.9", "--boxes", "found", "--masks", "cut", "--grace", "0")
    left = set(files())
    assert left == {Path(sample["cut"].mask_path) for sample in people} and not left & set(before)
    # The record of the run leads to all of it.
    assert "camflow_found_and_1_more" in camflow("runs", "--dataset", people.name).stdout
    assert camflow("check", "--dataset", people.name).stdout.count("0 damaged") == 1
    camflow("remove", "--dataset", people.name, "camflow_found_and_1_more", "--apply", "--grace", "0")
    people.reload()
    assert not people.has_field("found") and not people.has_field("cut") and not files()
    assert people.first()[field] is not None


def test_a_learnt_threshold_beats_the_usual_one(quickstart, clone, annotate, localize, standin_model):
    """By more than ten points of IoU on samples that it was not learnt on, where heatmaps are dark but for a few pixels."""
    source = fo.load_dataset(quickstart)
    dataset = clone(source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()]))
    methods = ("--method", "gradcam,layercam")
    annotate(dataset, standin_model, "--class", "person", "--layers", "3,4", "--target", "predicted", *methods)
    done = localize(dataset, "--truth", "ground_truth")
    said = {one["field"]: one for one in done.numbers["classes"]}
    gain = lambda field: said[field]["iou_cross_validated"] - said[field]["iou_at_0.15"]
    assert said["person_layercam_layer_3"]["num_labelled"] >= 20
    assert gain("person_layercam_layer_3") > 0.1 and gain("person_grad_layer_4") > 0.05
    assert said["person_layercam_layer_4"]["iou_cross_validated"] > 0.7 and gain("person_layercam_layer_4") > -0.02
    # A learnt threshold at the end of what is tried is told.
    assert "`person_layercam_layer_3`" in done.stdout and "lowest threshold" in done.stdout


def test_heatmaps_count_in_whatever_form_they_are_kept(people, annotate, localize, standin_model):
    forms = {"floats": (), "picture": ("--npy", "none"), "document": ("--npy", "none", "--store", "inline")}
    for name, form in forms.items():
        common = ("--class", "person", "--layers", "4", "--target", "predicted", "--field", f"{{class}}_{name}")
        annotate(people, standin_model, *common, *form)
    numbers = localize(people, "--truth", "ground_truth").numbers
    said = {one["field"].removeprefix("person_"): one for one in numbers["classes"] if one["field"]}
    floats, picture, document = (said[name] for name in forms)
    assert document["iou"] == pytest.approx(floats["iou"], abs=1e-3)
    assert document["px_ap"] == pytest.approx(floats["px_ap"], abs=1e-3)
    assert picture["iou"] == pytest.approx(floats["iou"], abs=0.01) and picture["px_ap"] == pytest.approx(
        floats["px_ap"], abs=0.01
    )
    localize(people, "--fields", "person_document", "--threshold", "0.3", "--boxes", "found")
    heatmap, sample = load(people.first()["person_document"]), people.first()
    assert len(sample["found"].detections) == len(kept_components(heatmap, 0.3)) > 0


@pytest.mark.parametrize("npy", ["layer", "f32", "none"])
def test_of_a_crop_boxes_lie_in_the_whole_image(people, annotate, localize, classifier, npy):
    annotate(people, classifier, "--class", "person", "--target", "predicted", "--layers", "1", "--npy", npy)
    (field,) = people.get_field_schema(fo.EmbeddedDocumentField, fo.Heatmap)
    people.mask_targets = {"ground_truth": people.default_mask_targets}
    people.save()
    numbers = localize(people, "--truth", "ground_truth", "--boxes", "found").numbers["classes"][0]
    value = next(number for number, name in people.default_mask_targets.items() if name == "person")
    pairs = []
    for sample in people:
        seen, top, left = crop(sample)
        heatmap = load(sample[field])
        assert heatmap.shape == seen.shape
        truth = np.where(seen, resized(sample.ground_truth.mask == value, seen.shape), 255)
        if (truth == 1).any():
            pairs.append((heatmap, truth.astype(int)))
        for one in sample["found"].detections:
            x, y, across, down = one.bounding_box
            rows, columns = np.where(seen)
            height, width = seen.shape
            assert x * width >= columns.min() - 1e-6 and (x + across) * width <= columns.max() + 1 + 1e-6
            assert y * height >= rows.min() - 1e-6 and (y + down) * height <= rows.max() + 1 + 1e-6
    assert numbers["num_labelled"] == len(pairs) > 0
    assert numbers["px_ap"] == pytest.approx(px_ap(*zip(*pairs, strict=True)), abs=1e-6)


# What else a nightly user meets.


def blobs(count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One bright patch each."""
    rows, columns = np.mgrid[:32, :40]
    places = rng.integers(8, 24, (count, 2))
    return [np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 40).astype(np.float32) for y, x in places]


def test_a_damaged_heatmap_costs_its_sample_only(heatmaps, localize):
    dataset = heatmaps(blobs(4, np.random.default_rng(4)))
    first, second = dataset.values("id")[:2]
    Path(dataset[first][FIELD].npy_path).write_bytes(b"\x93NUMPY and then nothing")
    Path(dataset[second][FIELD].npy_path).unlink()
    done = localize(dataset, "--threshold", "0.5", "--boxes", "found", "--masks", "cut", code=1)
    assert done.numbers["num_failed"] == 2 and done.numbers["num_written"] == 2
    assert all(f"sample `{sample}`" in done.stderr and FIELD in done.stderr for sample in (first, second))
    assert "camflow annotate" in done.stdout
    assert [sample["found"] is None for sample in dataset] == [True, True, False, False]
    # Mended, they are made, and the others stay as they are.
    for sample in (first, second):
        np.save(dataset[sample][FIELD].npy_path, blobs(1, np.random.default_rng(5))[0])
    done = localize(dataset, "--threshold", "0.5", "--boxes", "found", "--masks", "cut")
    assert (done.numbers["num_written"], done.numbers["num_up_to_date"]) == (2, 2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_leaves_nothing_half_done(heatmaps, localize, binary, tmp_path, how):
    dataset = heatmaps(blobs(300, np.random.default_rng(10)))
    flags = ("--threshold", "0.4", "--boxes", "found", "--masks", "cut")
    common = ("--dataset", dataset.name, "--out", tmp_path / "maps")
    running = subprocess.Popen([str(part) for part in (binary, "localize", *common, *flags)], stdout=subprocess.PIPE)
    samples = dataset._sample_collection
    while running.poll() is None and samples.count_documents({"cut.fingerprint": {"$exists": True}}) == 0:
        time.sleep(0.01)
    running.send_signal(how)
    said, code = running.communicate(timeout=300)[0].decode(), running.returncode
    assert code in ((-how,) if how == signal.SIGKILL else (0, 130)) and (code != 130 or "run the same command again" in said)
    dataset.reload()
    made = dataset.exists("cut").values("id")
    assert made
    for sample in dataset.select(made):
        assert sample["cut"].get_mask().shape == (32, 40) and sample["found"] is not None
    if how == signal.SIGKILL:
        # Whoever held the fields is gone, which is known at once.
        assert len(made) < 300
    done = localize(dataset, *flags)
    assert done.numbers["num_written"] == 300 - len(made) and dataset.exists("cut").count() == 300
    unfinished = [path for path in (tmp_path / "maps" / "cut").rglob("*") if path.is_file() and path.suffix != ".png"]
    assert how == signal.SIGKILL or not unfinished


def test_clean_knows_masks(heatmaps, localize, camflow, tmp_path):
    dataset = heatmaps(blobs(3, np.random.default_rng(11)))
    localize(dataset, "--threshold", "0.4", "--masks", "cut")
    first, second, third = (Path(sample["cut"].mask_path) for sample in dataset)
    first.unlink()
    sample = dataset.last()
    sample["cut"] = None
    sample.save()
    clean = ("clean", "--dataset", dataset.name, "--out", tmp_path / "maps", "--grace", "0", "--force")
    said = camflow(*clean, "--apply").stdout
    dataset.reload()
    assert "1 labels without files" in said
    assert [sample["cut"] is None for sample in dataset] == [True, False, True]
    assert not third.exists() and second.exists()


def test_a_damaged_mask_is_found_and_made_again(heatmaps, localize, camflow):
    dataset = heatmaps(blobs(3, np.random.default_rng(12)))
    flags = ("--threshold", "0.4", "--masks", "cut")
    localize(dataset, *flags)
    path = Path(dataset.first()["cut"].mask_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    check = ("check", "--dataset", dataset.name, "--fields", "cut")
    assert "3 masks with 3 files looked at" in camflow(*check).stdout, "the sizes are right"
    said = camflow(*check, "--read-data", code=1).stdout
    assert f"field `cut`: `{path}`" in said and "1 damaged" in said
    assert "the next `camflow localize` of the same job makes the damaged ones again" in said
    assert "1 damaged" in camflow(*check, code=1).stdout, "now the label says so"
    assert "1 sample written, 2 up to date" in localize(dataset, *flags).stdout
    assert path.read_bytes() == whole
    assert "0 damaged" in camflow(*check, "--read-data").stdout
    assert "0 samples written, 3 up to date" in localize(dataset, *flags).stdout
    # Whatever a label says of its file, another mask takes its place.
    sample = dataset.first()
    sample["cut"].mask_checksum = "nonsense"
    sample.save()
    assert "3 samples written" in localize(dataset, "--threshold", "0.6", "--masks", "cut").stdout
    assert dataset.first()["cut"].mask_path != str(path) and "0 damaged" in camflow(*check, "--read-data").stdout


def test_what_is_somebody_elses_stays(heatmaps, localize):
    dataset = heatmaps(blobs(3, np.random.default_rng(6)))
    theirs = fo.Detections(detections=[fo.Detection(label="mine", bounding_box=[0, 0, 1, 1])])
    for sample in dataset:
        sample["mine"], sample["note"] = theirs.copy(), "x"
        sample.save()
    refused = localize(dataset, "--threshold", "0.5", "--boxes", "mine", code=2).stderr
    assert "`camflow localize` did not make" in refused and "hint: choose another name with `--boxes`" in refused
    refused = localize(dataset, "--threshold", "0.5", "--masks", "note", "--replace", code=2).stderr
    assert "is of type StringField" in refused and "--masks" in refused
    localize(dataset, "--threshold", "0.5", "--boxes", "found")
    # A label that a person put into our field.
    sample = dataset.first()
    sample["found"] = theirs.copy()
    sample.save()
    done = localize(dataset, "--threshold", "0.6", "--boxes", "found")
    assert done.numbers["num_kept"] == 1 and "--replace" in done.stdout
    assert [one.label for one in dataset.first()["found"].detections] == ["mine"]
    localize(dataset, "--threshold", "0.6", "--boxes", "found", "--replace")
    assert [one.label for one in dataset.first()["found"].detections] == ["thing"]
    # A heatmap that is gone takes its labels along.
    sample = dataset.first()
    sample[FIELD] = None
    sample.save()
    done = localize(dataset, "--threshold", "0.6", "--boxes", "found")
    assert done.numbers["num_withdrawn"] == 1 and dataset.first()["found"] is None
    assert dataset.exists("found").count() == 2 and dataset.exists("mine").count() == 3


def test_classes_share_a_mask(heatmaps, localize):
    rng = np.random.default_rng(7)
    maps, others = blobs(3, rng), blobs(3, rng)
    dataset = heatmaps(maps)
    second = heatmaps(others, label="cat")
    for sample, other in zip(dataset, second, strict=True):
        sample["cat_grad_layer_1"] = other[FIELD].copy()
        sample.save()
    dataset.add_dynamic_sample_fields()
    dataset.mask_targets = {"cut": {7: "thing"}}
    dataset.save()
    fields = ("--fields", f"{FIELD},cat_grad_layer_1")
    localize(dataset, *fields, "--threshold", "0.3", "--masks", "cut", "--boxes", "found")
    assert dataset.mask_targets["cut"] == {7: "thing", 8: "cat"}
    for sample, one, other in zip(dataset, maps, others, strict=True):
        of_one, of_other = (np.logical_or.reduce(kept_components(heatmap, 0.3)) for heatmap in (one, other))
        wins = ~of_other | (one / one.max() >= other / other.max())
        wanted = np.select([of_one & wins, of_other], (7, 8), 0)
        assert np.array_equal(sample["cut"].get_mask(), wanted)
        assert [found.label for found in sample["found"].detections] == ["thing", "cat"]
    # Labels of other heatmaps are not written over unasked.
    refused = localize(dataset, "--fields", FIELD, "--threshold", "0.3", "--masks", "cut", code=2).stderr
    assert f"{FIELD}, cat_grad_layer_1" in refused and "`--replace`" in refused
    localize(dataset, "--fields", FIELD, "--threshold", "0.3", "--masks", "cut", "--replace")
    assert set(np.unique(dataset.first()["cut"].get_mask())) == {0, 7}
    # Of two layers of a class a label has one.
    twice = second.first()
    twice["cat_grad_layer_2"] = twice[FIELD].copy()
    twice.save()
    second.add_dynamic_sample_fields()
    refused = localize(second, "--threshold", "0.3", "--boxes", "found", code=2).stderr
    assert "both hold heatmaps of class `cat`" in refused and "--fields" in refused


def test_what_cannot_be_done_is_said(heatmaps, localize):
    dataset = heatmaps(blobs(2, np.random.default_rng(8)), scene=[fo.Classification(label="day")] * 2)
    boxes = [fo.Detections(detections=[fo.Detection(label="automobile", bounding_box=[0.1, 0.1, 0.5, 0.5])])] * 2
    for sample, label in zip(dataset, boxes, strict=True):
        sample["truth"] = label.copy()
        sample.save()

    def said(*flags):
        return localize(dataset, *flags, code=2).stderr

    assert "no threshold is given" in said("--boxes", "found") and "hint: add `--truth FIELD`" in said("--boxes", "found")
    assert "nothing to do" in said("--threshold", "0.2")
    assert "whole hundredths" in said("--threshold", "0.155", "--boxes", "found")
    assert "does not say where classes are" in said("--truth", "scene")
    assert "is named for two things" in said("--truth", "truth", "--boxes", "truth")
    missing = said("--truth", "truth", "--boxes", "found")
    assert "no threshold can be learnt" in missing and "`thing`" in missing and "--map LABEL=CLASS" in missing
    assert not dataset.has_field("found"), "nothing was begun"
    assert "no heatmap explains" in said("--truth", "truth", "--map", "automobile=car")
    assert "nothing was compared" in localize(dataset, "--truth", "truth", "--threshold", "0.2").stdout
    done = localize(dataset, "--truth", "truth", "--map", "automobile=thing", "--boxes", "found", "--dry-run")
    assert done.numbers["num_written"] == 2 and "would be written" in done.stdout and not dataset.has_field("found")


def test_from_python(heatmaps, tmp_path, monkeypatch, binary):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    dataset = heatmaps(blobs(4, np.random.default_rng(9)))
    found = api.localize(dataset[:2], boxes="found", masks="cut", threshold=0.4, largest=True, out=tmp_path / "maps")
    assert found.numbers["num_written"] == 2 and dataset.exists("found").count() == 2
    assert [entry["class"] for entry in found.classes] == ["thing"] and "2 samples written" in str(found)
    with pytest.raises(api.CamflowError, match="hint: "):
        api.localize(dataset, boxes="found")
    with pytest.raises(TypeError, match="`samples`"):
        api.localize("dataset")
