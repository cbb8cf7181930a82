"""Heatmaps, predictions and labels made of heatmaps: none of them is ever written over another one, nor over what people made."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo

sys.path.insert(0, str(Path(__file__).resolve().parent))
from test_predictions import detr  # noqa: F401  (a fixture)

# What each writes, by the name of the field that it makes in an empty dataset.
KINDS = ("heatmaps", "classes", "pixels", "detections", "boxes", "masks")
# What people made.
OWN = {
    "own_class": lambda n: fo.Classification(label="cat", confidence=0.5),
    "own_boxes": lambda n: fo.Detections(detections=[fo.Detection(label="cat", bounding_box=[0.1, 0.1, 0.5, 0.5])]),
    "own_mask": lambda n: fo.Segmentation(mask=np.ones((30, 40), np.uint8)),
    "own_map": lambda n: fo.Heatmap(map=np.ones((30, 40), np.float32)),
    "own_number": lambda n: 0.5,
}


@pytest.fixture
def write(camflow, classifier, tiny_model, detr, tmp_path):  # noqa: F811
    def run(kind: str, dataset, field: str, *flags, code=0) -> str:
        common = ["--dataset", dataset.name, "--out", tmp_path / "maps", *flags]
        annotate = ["annotate", *common, "--device", "cpu", "--batch-size", "1"]
        segmentation = [*annotate, "--model", tiny_model, "--target", "labels:ground_truth", "--layers", "1"]
        commands = {
            "heatmaps": [*segmentation, "--class", "light", "--field", field],
            "classes": [*annotate, "--model", classifier, "--target", "top", "--layers", "1", "--field", "aside_top"],
            "pixels": [*segmentation, "--class", "middle", "--field", "aside_middle"],
            "detections": [*annotate, "--model", detr[1], "--target", "predicted", "--class", "dog", "--field", "aside_dog"],
            "boxes": ["localize", *common, "--fields", "heatmaps", "--threshold", "0.5", "--boxes", field],
            "masks": ["localize", *common, "--fields", "heatmaps", "--threshold", "0.5", "--masks", field],
        }
        predicts = ["--predictions", field] if kind in ("classes", "pixels", "detections") else []
        done = camflow(*commands[kind], *predicts, code=code)
        dataset.reload()
        return done.stderr

    return run


def content(dataset) -> tuple:
    """All that is stored of a dataset but when it was changed."""
    documents = fo.core.odm.get_db_conn()[dataset._sample_collection_name].find().sort("_id")
    schema = {name: str(field) for name, field in dataset.get_field_schema(flat=True).items()}
    return schema, [{key: value for key, value in document.items() if key != "last_modified_at"} for document in documents]


# Of one type of label, so that only what wrote them tells them apart; and a few of other types.
PAIRS = (
    *(("detections", field) for field in ("boxes", "own_boxes", "heatmaps", "own_number")),
    *(("boxes", field) for field in ("detections", "own_boxes", "heatmaps", "masks")),
    *(("pixels", field) for field in ("masks", "own_mask")),
    *(("masks", field) for field in ("pixels", "own_mask", "classes")),
    *(("classes", field) for field in ("own_class", "pixels")),
    *(("heatmaps", field) for field in ("pixels", "boxes", "own_class")),
)


def test_no_kind_is_written_over_another(tiny_dataset, write):
    dataset = tiny_dataset(2, **OWN)
    for kind in KINDS:
        write(kind, dataset, kind)
    before = content(dataset)
    for kind, field in PAIRS:
        # Consent to replace what camflow made of other things is none to replace these.
        said = write(kind, dataset, field, "--replace", code=2)
        assert f"field `{field}`" in said and "hint: " in said, (kind, field)
        assert content(dataset) == before, (kind, field, said)
    # Heatmaps of another program go with consent alone.
    assert "`own_map`" in write("heatmaps", dataset, "own_map", code=2)
    assert content(dataset) == before
    assert "2 heatmaps of another program" in write("heatmaps", dataset, "own_map", "--replace")
