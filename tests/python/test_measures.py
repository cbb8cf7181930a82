"""The measures on the labels, beside the same computed from the stored heatmaps and FiftyOne's own masks by numpy and
SciPy."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image
from scipy import ndimage, stats

PERSON = 15
INSIDE = ("energy_inside", "energy_ratio", "pointing_hit", "best_iou", "best_threshold", "center_offset", "object_area")
MEASURES = (*INSIDE, "entropy", "rank_correlation")


def resized(mask: np.ndarray, shape: tuple) -> np.ndarray:
    """Nearest neighbour, row floor(i * old / new)."""
    rows, columns = ((np.arange(new) * old) // new for new, old in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, columns)]


def expected(heatmap: np.ndarray, before: np.ndarray | None, mask: np.ndarray | None, seen: np.ndarray | None) -> dict:
    """What camflow should have measured; `mask` and `seen` are bool, of any size."""
    seen = np.ones(heatmap.shape, bool) if seen is None else resized(seen, heatmap.shape)
    heatmap = heatmap.astype(np.float64)
    energies = heatmap[seen]
    values = {"entropy": stats.entropy(energies) / np.log(seen.sum()), "rank_correlation": None}
    levels = np.floor(255 * heatmap.astype(np.float32) + np.float32(0.5))
    if before is not None:
        others = np.floor(255 * before + np.float32(0.5))
        others = others if others.shape == levels.shape else resized(others, levels.shape)
        values["rank_correlation"] = stats.spearmanr(levels[seen], others[seen]).statistic
    if mask is None:
        return {**dict.fromkeys(INSIDE), **values}
    inside = resized(mask, heatmap.shape) & seen
    energy, area = energies.sum(), inside.sum() / seen.sum()
    heat, where = np.array(ndimage.center_of_mass(heatmap * seen)), np.array(ndimage.center_of_mass(inside))
    above = [levels[seen] >= level for level in range(1, 256)]
    ious = [(inside[seen] & pixels).sum() / (inside[seen] | pixels).sum() for pixels in above]
    return {
        **values,
        "energy_inside": heatmap[inside].sum() / energy,
        "energy_ratio": heatmap[inside].sum() / energy / area,
        "pointing_hit": bool((inside & (heatmap == energies.max())).any()),
        "best_iou": max(ious),
        "best_threshold": (int(np.argmax(ious)) + 1) / 255,
        "center_offset": np.linalg.norm(heat - where) / np.hypot(*heatmap.shape),
        "object_area": area,
    }


def compare(sample, fields, mask, seen=None) -> int:
    """Checks the labels of a sample, given by layer; how many numbers were compared."""
    before, count = None, 0
    for field in fields:
        label = sample[field]
        heatmap = load(label)
        for name, wanted in expected(heatmap, before, mask, seen).items():
            if isinstance(wanted, float | np.floating):
                assert label[name] == pytest.approx(wanted, rel=1e-6, abs=1e-9), (field, name)
            else:
                assert label[name] == wanted, (field, name)
            count += 1
        before = heatmap
    return count


@pytest.fixture
def dataset(quickstart, clone):
    source = fo.load_dataset(quickstart)
    return clone(source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()][:3]))


@pytest.fixture
def annotate(camflow, tmp_path):
    def run(dataset, model, layers, *flags):
        arguments = ("annotate", "--dataset", dataset.name, "--model", model, "--layers", layers, "--device", "cpu")
        camflow(*arguments, "--class", "person", "--out", tmp_path / "maps", "--workers", 2, *flags)
        dataset.reload()
        return [f"person_grad_layer_{layer}" for layer in range(1, int(layers[-1]) + 1)]

    return run


def test_measures_of_a_segmentation_network(dataset, annotate, standin_model):
    fields = annotate(dataset, standin_model, "1-4", "--target", "labels:resnet50_seg")
    assert all(compare(s, fields[:2], s.resnet50_seg.mask == PERSON) == 18 for s in dataset)
    # The App's sidebar and queries see them.
    schema = dataset.get_field_schema(flat=True)
    assert all(f"{fields[3]}.{name}" in schema for name in MEASURES)
    ratios = dataset.sort_by(f"{fields[3]}.energy_ratio").values(f"{fields[3]}.energy_ratio")
    assert ratios == sorted(ratios) and dataset.bounds(f"{fields[3]}.energy_ratio") == (ratios[0], ratios[-1])
    assert ratios[0] > 1, "the network looks at people more than by chance"


def test_measures_of_maps_of_the_layers_own_sizes(dataset, annotate, standin_model):
    fields = annotate(dataset, standin_model, "1-4", "--target", "labels:resnet50_seg", "--size", "layer")
    shapes = {load(s[field]).shape for s in dataset for field in fields}
    assert len(shapes) > len(dataset), "layers differ in size"
    assert all(compare(s, fields, s.resnet50_seg.mask == PERSON) == 36 for s in dataset)


def crop(sample) -> tuple[np.ndarray, int, int]:
    """What the tiny classifier sees of an image resized to a smaller side of 72: the middle 64 x 64; with its corner."""
    size = Image.open(sample.filepath).size
    width, height = (72 if side == min(size) else int(side * 72 / min(size)) for side in size)
    top, left = round((height - 64) / 2), round((width - 64) / 2)
    seen = np.zeros((height, width), bool)
    seen[top : top + 64, left : left + 64] = True
    return seen, top, left


@pytest.mark.parametrize("size", ["input", "image", "layer"])
def test_what_a_crop_leaves_out_is_not_measured(dataset, annotate, classifier, size):
    # With the gradients of each image: ranks of pixels that are almost equal are told apart by a last bit, in which the default mode may
    # have the map of a last layer otherwise than the file's, resized twice.
    annotate(dataset, classifier, "1-2", "--target", "labels:ground_truth", "--size", size, "--exact")
    compared = 0
    for sample in dataset:
        label = sample.person_grad_layer_2
        if label is None:
            continue
        seen, top, left = crop(sample)
        mask = resized(sample.ground_truth.mask == PERSON, seen.shape) & seen
        if size == "layer":
            mask, seen = mask[top : top + 64, left : left + 64], None
        compared += compare(sample, ["person_grad_layer_1", "person_grad_layer_2"], mask, seen)
        assert label.object_area < 1
    assert compared >= 18


def test_without_a_mask_what_needs_one_is_null(dataset, annotate, classifier):
    fields = annotate(dataset, classifier, "1-2", "--target", "predicted")
    assert all(compare(s, fields, None, crop(s)[0]) == 18 for s in dataset)


def test_predicted_pixels_are_the_object(dataset, annotate, standin_model):
    """`resnet50_seg` is what the same network predicted, at the image's size."""
    fields = annotate(dataset, standin_model, "4", "--target", "predicted")
    for sample in dataset:
        label = sample[fields[-1]]
        predicted = expected(load(label), None, sample.resnet50_seg.mask == PERSON, None)
        assert label.energy_inside == pytest.approx(predicted["energy_inside"], abs=0.02)
        assert label.object_area == pytest.approx(predicted["object_area"], abs=0.02)
