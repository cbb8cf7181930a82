"""Labels where nobody looks for them, and labels that mean nothing: drawn as FiftyOne's own are, or called by their name."""

from __future__ import annotations

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image

FIELD = "light_grad_layer_1"


@pytest.fixture
def annotate(camflow, tiny_model, tmp_path):
    def run(dataset, target, *flags, code=0, classes="light"):
        flags = ["--class", classes, *flags] if classes else flags
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--model", tiny_model, "--target", target),
            *("--out", tmp_path / "maps" / dataset.name, "--device", "cpu", "--format", "json", *flags),
            # Which samples share a batch depends on what is decoded first, and in another batch the last bit may be another.
            *("--batch-size", "1"),
            code=code,
        )
        dataset.reload()
        return done

    return run


def boxes(n=0):
    return [
        fo.Detection(label="light", bounding_box=[0.25 * (n % 3), 0.5, 0.5, 0.5]),
        fo.Detection(label="lamp", bounding_box=[0.5, 0, 0.5, 1], mask=np.eye(4, dtype=bool)),
    ]


def lines(n=0):
    return [fo.Polyline(label="light", points=[[(0.1, 0.1), (0.9, 0.2), (0.5, 0.9)]], closed=True, filled=True)]


def names(n=0):
    # The model puts one of them first in some pixels.
    return [fo.Classification(label=name) for name in ("middle", "light", "never")]


def failures(done):
    return [event["error"] for event in done.events if event["event"] == "sample_failed"]


def told(done, kind="warning"):
    return "\n".join(event["message"] for event in done.events if event["event"] == kind)


def test_lists_and_inner_fields_give_what_labels_give(tiny_dataset, annotate):
    """Every way in which FiftyOne lets labels be kept; `add_samples(..., dynamic=True)` declares them all."""
    dataset = tiny_dataset(
        3,
        boxes=lambda n: fo.Detections(detections=boxes(n)),
        outlines=lambda n: fo.Polylines(polylines=lines(n)),
        scenes=lambda n: fo.Classifications(classifications=names(n)),
    )
    for n, sample in enumerate(dataset):
        mask = sample.ground_truth.mask
        sample["raw"], sample["bare_lines"], sample["bare_names"] = boxes(n), lines(n), names(n)
        sample["meta"] = fo.DynamicEmbeddedDocument(
            boxes=fo.Detections(detections=boxes(n)),
            raw=boxes(n),
            masks=fo.Segmentation(mask=mask),
            deep=fo.DynamicEmbeddedDocument(boxes=fo.Detections(detections=boxes(n))),
        )
        sample["metas"] = [fo.DynamicEmbeddedDocument(boxes=fo.Detections(detections=boxes(n)))]
        sample["many"] = [fo.Detections(detections=boxes(n))]
        sample["masks"] = [fo.Segmentation(mask=mask)]
        sample["settings"] = {"boxes": "none"}
        sample.save()
    dataset.add_dynamic_sample_fields()
    dataset.mask_targets = {"meta.masks": {1: "middle", 2: "light"}}
    dataset.add_sample_field("anything", fo.ListField)

    def scores(target, classes="light"):
        annotate(dataset, f"labels:{target}", "--overwrite", "--field", "cam_{class}", classes=classes)
        fields = [f"cam_{name}" for name in classes.split(",") if f"cam_{name}" in dataset.get_field_schema()]
        return [score for field in fields for score in dataset.values(f"{field}.score") if score is not None]

    same = {
        ("boxes", "light"): ("raw", "meta.boxes", "meta.raw", "meta.deep.boxes"),
        ("outlines", "light"): ("bare_lines",),
        ("scenes", "middle,light,never"): ("bare_names",),
        ("ground_truth", "light"): ("meta.masks",),
    }
    for (label, classes), others in same.items():
        wanted = scores(label, classes)
        assert len(set(wanted)) >= 3
        for other in others:
            assert scores(other, classes) == wanted, other
    refused = {
        "metas.boxes": "lies in the list `metas`",
        "many": "list of Detections",
        "masks": "list of Segmentation",
        "settings": "DictField",
        "anything": "ListField",
        "boxes.detections": "a part of the labels in field `boxes`",
        "meta": "DynamicEmbeddedDocument",
        "meta.other": "add_dynamic_sample_fields",
        "meta.boxes.detections.label": "a part of the labels",
        "n": "IntField",
    }
    for target, words in refused.items():
        error = annotate(dataset, f"labels:{target}", code=2).stderr
        assert f"`{target}`" in error and words in error and "hint: " in error, error
    done = annotate(dataset, "labels:raw", "--field", "all_{class}", classes="all")
    assert "all_light" in dataset.get_field_schema() and "`lamp`" in told(done, "notice")


def test_views_show_lists_and_inner_fields(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    for n, sample in enumerate(dataset):
        sample["meta"] = fo.DynamicEmbeddedDocument(boxes=fo.Detections(detections=[*boxes(n), *boxes(n + 1)]))
        sample["first"] = fo.Detections(detections=boxes(n)[:1])
        sample.save()
    dataset.add_dynamic_sample_fields()
    dataset.save_view("first", dataset.limit_labels("meta.boxes", 1))
    annotate(dataset, "labels:first")
    wanted = dataset.values(f"{FIELD}.score")
    annotate(dataset, "labels:meta.boxes", "--view", "first", "--overwrite")
    assert dataset.values(f"{FIELD}.score") == wanted


def test_pixels_are_no_fractions(tiny_dataset, annotate):
    box = lambda bounds: fo.Detections(detections=[fo.Detection(label="light", bounding_box=bounds)])
    line = lambda points: fo.Polylines(polylines=[fo.Polyline(label="light", points=[points], closed=True, filled=True)])
    bounds = [[10, 5, 20, 15], [0, 0, 20, 15], [0.5, -0.2, 0.7, 0.9], [-0.2, 0.5, 1.5, 0.6]]
    points = [
        [(10, 5), (30, 5), (20, 20)],
        [(0, 0), (20, 0), (20, 15)],
        [(-0.3, 0.5), (1.2, 0.5), (0.5, 1.4)],
        [(0, 0), (1, 0), (1, 1)],
    ]
    dataset = tiny_dataset(4, boxes=lambda n: box(bounds[n]), lines=lambda n: line(points[n]))
    for field in ("boxes", "lines"):
        done = annotate(dataset, f"labels:{field}", "--overwrite", code=1)
        errors = failures(done)
        assert len(errors) == 2 and all(
            "fractions of its width and height" in error and "divide pixels" in error for error in errors
        )
        assert [score is not None for score in dataset.values(f"{FIELD}.score")] == [False, False, True, True]
    # What goes on beside the image is cut off, as FiftyOne does.
    for sample in dataset[2:]:
        drawn = sample.lines.to_segmentation(frame_size=(40, 30), mask_targets={1: "light"}).mask
        assert 0 < sample[FIELD].object_area == pytest.approx((drawn > 0).mean(), abs=0.01)


def test_media_elsewhere_are_called_so(tiny_dataset, annotate):
    dataset = tiny_dataset(1)
    paths = [
        "s3://bucket/a.png",
        "gs://bucket/a.png",
        "az://store/a.png",
        "https://host/a.png",
        "file:///data/a.png",
        "C:\\data\\a.png",
    ]
    dataset.add_samples([fo.Sample(path, ground_truth=dataset.first().ground_truth.copy()) for path in paths], progress=False)
    errors = "\n".join(failures(annotate(dataset, "labels:ground_truth", code=1)))
    for path in paths[:4]:
        assert f"`{path}` is not on this disk" in errors, errors
    assert "`/data/a.png`" in errors and "a path of Windows" in errors
    assert len(dataset.exists(FIELD)) == 1


def test_a_sample_without_a_path_is_told(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    dataset._sample_collection.update_one({"n": 0}, {"$unset": {"filepath": ""}})
    assert "a sample needs the path of its image as `filepath`" in failures(annotate(dataset, "labels:ground_truth", code=1))[0]


def test_the_values_of_masks_without_the_class_are_told(tiny_dataset, annotate):
    dataset = tiny_dataset(3)
    dataset.default_mask_targets = {}
    for sample in dataset:
        sample.ground_truth.mask = np.where(sample.ground_truth.mask == 2, 255, 0).astype(np.uint8)
        sample.save()
    for flags in ([], ["--dry-run"]):
        warning = told(annotate(dataset, "labels:ground_truth", *flags))
        assert (
            "no mask in field `ground_truth` holds `light` (2); the first 3 hold 0, 255" in warning and "mask_targets" in warning
        )
    dataset.mask_targets = {"ground_truth": {255: "light"}}
    assert not told(annotate(dataset, "labels:ground_truth"))
    assert len(dataset.exists(FIELD)) == 3


def test_explain_tells_the_values_of_a_mask(camflow, tiny_model, tiny_dataset, tmp_path):
    picture = tiny_dataset(1).first().filepath
    mask = np.zeros((30, 40), np.uint8)
    mask[5:20, 5:20] = 255

    def explain(mask, *arguments, code=1):
        Image.fromarray(mask).save(tmp_path / "mask.png")
        done = camflow(
            *(
                "explain",
                picture,
                "--model",
                tiny_model,
                "--mask",
                tmp_path / "mask.png",
                "--out",
                tmp_path / "out",
                "--device",
                "cpu",
            ),
            *("--format", "json", *arguments),
            code=code,
        )
        return told(done, "notice")

    said = explain(mask, "--class", "light")
    assert "class not in label" in said and "holds 0, 255 and no 2" in said and "hint: " in said and "2 for `light`" in said
    mask[0, 0] = 1
    # One of two is done.
    assert "and no 2" in explain(mask, "--class", "middle,light", code=0)
    assert list((tmp_path / "out").glob("*middle*")) and not list((tmp_path / "out").glob("*light*"))


def test_values_of_masks_that_nobody_named_are_told(tiny_dataset, annotate):
    dataset = tiny_dataset(2)
    assert "mask targets" not in told(annotate(dataset, "labels", "--dry-run"), "notice")
    dataset.default_mask_targets = {}
    dataset.save()
    said = told(annotate(dataset, "labels", "--dry-run", classes="light,middle"), "notice")
    assert "field `ground_truth` has no mask targets, so that values in its masks are taken for the numbers of channels" in said
    assert "(2 is `light`, 1 is `middle`)" in said and '`dataset.mask_targets["ground_truth"]` says otherwise' in said


def test_masks_that_lie_across_their_images_are_told(tiny_dataset, annotate):
    """FiftyOne stretches them over the image, and so does camflow; drawn on the upright photograph, that is another place."""
    dataset = tiny_dataset(4)
    assert "across" not in told(annotate(dataset, "labels"))
    turned = list(dataset)[1:3]
    for sample, side in zip(turned, (1, 2), strict=True):
        photo = Image.open(sample.filepath)
        exif = Image.Exif()
        exif[0x0112] = 6
        photo.save(sample.filepath, exif=exif)
        # Of the upright photograph's size, or smaller.
        mask = np.rot90(sample.ground_truth.mask, -1)[::side, ::side].copy()
        sample.ground_truth = fo.Segmentation(mask=mask)
        sample.save()
    said = told(annotate(dataset, "labels"))
    assert f"2 masks lie across the image, stretched over it; the first is that of sample `{turned[0].id}`\nhint: " in said or (
        f"`{turned[1].id}`\nhint: " in said
    )
    assert "`--apply-exif`" in said
    assert "across" not in told(annotate(dataset, "labels", "--apply-exif", "--overwrite"))
    # Squares lie as they like, and other sizes are no turn.
    for shape in ((30, 30), (15, 20), (30, 20)):
        dataset.set_values("ground_truth", [fo.Segmentation(mask=np.full(shape, 2, np.uint8)) for _ in dataset])
        assert "across" not in told(annotate(dataset, "labels", "--overwrite")), shape


def test_masks_in_files_of_photographs_are_told(tiny_dataset, annotate, tmp_path):
    dataset = tiny_dataset(2)
    for sample in dataset:
        path = tmp_path / f"{sample.id}.{'jpg' if sample.n else 'png'}"
        Image.fromarray(sample.ground_truth.mask * 100).save(path)
        sample.ground_truth = fo.Segmentation(mask_path=str(path))
        sample.save()
    dataset.default_mask_targets = {100: "middle", 200: "light"}
    dataset.save()
    assert (dataset.last().ground_truth.get_mask() % 100).any(), "what FiftyOne reads, too"
    for flags in (["--dry-run"], []):
        said = told(annotate(dataset, "labels", *flags))
        assert (
            "1 mask is a JPEG file, whose compression changes the numbers of classes near edges\nhint: store masks as PNG" in said
        )
