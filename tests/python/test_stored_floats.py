"""What `.npy` files hold: the layer's own resolution, and with that the heatmap."""

from __future__ import annotations

from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from PIL import Image


@pytest.fixture
def pictures(database, request, tmp_path):
    """A dataset of pictures of several sizes."""
    dataset = fo.Dataset(request.node.name, persistent=True)
    for n, size in enumerate([(90, 61), (64, 64), (200, 333)]):
        pixels = np.random.default_rng(n).integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
        Image.fromarray(pixels).resize(size, Image.BICUBIC).save(tmp_path / f"{n}.png")
        dataset.add_sample(fo.Sample(str(tmp_path / f"{n}.png")))
    yield dataset
    dataset.delete()


@pytest.fixture
def annotate(camflow, database, pictures, classifier, tmp_path):
    """Annotates and returns the labels, the last layer's."""

    def run(out: str, *flags: str) -> list:
        camflow(
            *("annotate", "--dataset", pictures.name, "--model", classifier, "--target", "top", "--out", tmp_path / out),
            # In a batch with others the last bit may be another.
            *("--database-uri", database, "--device", "cpu", "--batch-size", "1"),
            *("--field", f"{out}_{{layer}}", "--new-folder", *flags),
        )
        pictures.reload()
        [field] = [name for name in pictures.get_field_schema() if name.startswith(f"{out}_")]
        return pictures.values(field)

    return run


@pytest.mark.parametrize("size", ["input", "image"])
def test_the_heatmap_is_had_from_what_the_layer_has(annotate, size):
    whole = annotate("whole", "--size", size, "--npy", "f32")
    small = annotate("small", "--size", size)
    assert len(whole) == len(small) == 3
    for one, other in zip(whole, small, strict=True):
        full = np.load(one.npy_path)
        assert one.upsampling is None and np.array_equal(load(one), full)
        assert np.load(other.npy_path).size * 4 < full.size
        assert load(other).shape == full.shape and np.abs(load(other) - full).max() <= 1e-6
        assert Path(other.map_path).read_bytes() == Path(one.map_path).read_bytes()
        measures = [(label.entropy, label.center_offset, label.score) for label in (one, other)]
        assert measures[0] == measures[1]


def test_what_was_drawn_from_several_maps_is_kept_whole(annotate):
    for label in annotate("smooth", "--aug-smooth"):
        assert label.upsampling is None and np.load(label.npy_path).shape == label.get_map().shape
    for label in annotate("own", "--size", "layer"):
        assert label.upsampling is None and np.load(label.npy_path).shape == label.get_map().shape


def test_heatmaps_of_an_earlier_default_are_up_to_date_and_stay(camflow, annotate, pictures):
    """They were whole, under the fingerprint that the default has now."""
    before = annotate("maps")
    # As an earlier version left them.
    for sample, label in zip(pictures, before, strict=True):
        whole = Path(label.map_path).with_suffix(".npy")
        assert whole != Path(label.npy_path), "files of other content have other names"
        np.save(whole, load(label))
        pictures._sample_collection.update_one(
            {"_id": sample._id},
            {
                "$set": {f"{label_field(pictures)}.npy_path": str(whole)},
                "$unset": {f"{label_field(pictures)}.{key}": "" for key in ("upsampling", "npy_checksum")},
            },
        )
    pictures.reload()
    after = annotate("maps")
    assert [Path(label.npy_path).suffix for label in after] == [".npy"] * 3
    assert all(label.npy_path != old.npy_path for label, old in zip(after, before, strict=True)), "nothing was computed again"
    for label, old in zip(after, before, strict=True):
        assert np.abs(load(label) - load(old)).max() == 0


def label_field(dataset) -> str:
    [field] = [name for name in dataset.get_field_schema() if name.startswith("maps_")]
    return field
