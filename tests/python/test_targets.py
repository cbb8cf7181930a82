"""`camflow annotate --target`: every kind of label, the model's top class and single pixels, on real FiftyOne datasets."""

from __future__ import annotations

import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from bson import Binary, ObjectId
from PIL import Image

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo
import fiftyone.core.odm as foo
from fiftyone import ViewField as F

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import reference
import tiny_classifier
from camflow import load

PERSON = 15
FIELD = "person_grad_layer_4"
UNSEEN = "class outside the part that the model sees, or smaller than a pixel"


@pytest.fixture
def dataset(quickstart, clone):
    """Four samples of the stand-in dataset with a person in the ground truth, to be changed."""
    source = fo.load_dataset(quickstart)
    people = [s.id for s in source if (s.ground_truth.mask == PERSON).any()][:4]
    return clone(source.select(people))


@pytest.fixture
def annotate(camflow, standin_model, tmp_path):
    def run(dataset, target, *flags, classes="person", model=standin_model, field=None, code=0):
        arguments = ["annotate", "--dataset", dataset.name, "--model", model, "--target", target, "--out", tmp_path / "maps"]
        # The classifiers of these tests have two layers, the stand-in network four.
        # They compare targets in one field.
        arguments += [
            "--replace",
            "--device",
            "cpu",
            "--format",
            "json",
            "--layers",
            "4" if model == standin_model else "1",
            *flags,
        ]
        arguments += ["--class", classes] if classes else []
        arguments += ["--field", field] if field else []
        done = camflow(*arguments, code=code)
        dataset.reload()
        return done

    return run


@pytest.fixture(scope="session")
def torch_classifier():
    return tiny_classifier.classifier()


def summary(done) -> dict:
    return next(event for event in done.events if event["event"] == "run_finished")


def failures(done) -> dict:
    return {event["sample"]: event["error"] for event in done.events if event["event"] == "sample_failed"}


def heatmaps(dataset, field=FIELD) -> dict:
    """By sample id, of those that have one."""
    if field not in dataset.get_field_schema():
        return {}
    return {s.id: load(s[field]) for s in dataset if s[field] is not None}


def same(first: dict, second: dict) -> bool:
    return bool(first) and first.keys() == second.keys() and all(np.array_equal(first[i], second[i]) for i in first)


def person(sample):
    return sample.ground_truth.mask == PERSON


def size(sample) -> tuple:
    """Width and height, as FiftyOne's `frame_size`."""
    return Image.open(sample.filepath).size


def segmentations(dataset, label_field, mask_of):
    """A Segmentation field of FiftyOne's own rendering, person as 15."""
    for sample in dataset:
        mask = mask_of(sample[label_field], size(sample))
        sample[f"{label_field}_seg"] = fo.Segmentation(mask=(mask > 0).astype(np.uint8) * PERSON)
        sample.save()


def raw(dataset):
    return foo.get_db_conn()[dataset._sample_collection_name]


# ------------------------------------------------------------------------------------------------------- detections


def test_instance_masks_of_the_ground_truth_give_the_heatmaps_of_the_segmentation(dataset, annotate, tmp_path):
    for index, sample in enumerate(dataset):
        mask = person(sample)
        if index % 2:
            instance = fo.Detection(label="person", bounding_box=[0, 0, 1, 1], mask=mask)
        else:
            path = tmp_path / f"{sample.id}.png"
            Image.fromarray(mask.astype(np.uint8) * 255).save(path)
            instance = fo.Detection(label="person", bounding_box=[0, 0, 1, 1], mask_path=str(path))
        other = fo.Detection(label="cow", bounding_box=[0, 0, 1, 1])
        assert mask.shape == size(sample)[::-1], "masks and pictures are of one size, so that nothing is resized"
        sample["instances"] = fo.Detections(detections=[other, instance])
        sample["one"] = instance.copy()
        sample.save()
    annotate(dataset, "labels:ground_truth")
    wanted = heatmaps(dataset)
    assert len(wanted) == len(dataset)
    annotate(dataset, "labels:instances")
    assert same(heatmaps(dataset), wanted)
    annotate(dataset, "labels:one")
    assert same(heatmaps(dataset), wanted)


def test_boxes_and_small_masks_are_where_fiftyone_puts_them(dataset, annotate, tmp_path):
    rng = np.random.default_rng(1)

    def on_disk(sample, number, box):
        path = tmp_path / f"{sample.id}-{number}.png"
        Image.fromarray((rng.random((9, 7)) > 0.4).astype(np.uint8) * 255).save(path)
        return fo.Detection(label="person", bounding_box=box, mask_path=str(path))

    for sample in dataset:
        boxes = [[0.1, 0.15, 0.33, 0.4], [0.37, 0.5, 0.4, 0.47], [0.9, 0.9, 0.3, 0.05]]
        sample["plain"] = fo.Detections(detections=[fo.Detection(label="person", bounding_box=box) for box in boxes])
        masked = [fo.Detection(label="person", bounding_box=box, mask=rng.random((9, 7)) > 0.4) for box in boxes]
        sample["masked"] = fo.Detections(detections=masked)
        files = [on_disk(sample, number, box) for number, box in enumerate(boxes)]
        sample["files"] = fo.Detections(detections=files)
        soft = [(rng.random((9, 7)) > 0.4) * rng.integers(1, 256, (9, 7)) for _ in boxes]
        bytes_of_them = [
            fo.Detection(label="person", bounding_box=box, mask=mask.astype(kind))
            for box, mask, kind in zip(boxes, soft, (np.uint8, np.int64, np.float32), strict=True)
        ]
        sample["soft"] = fo.Detections(detections=bytes_of_them)
        sample.save()

    def full(label, frame):
        # FiftyOne renders no detection without a mask, so each box gets a full one.
        copies = [d.copy() for d in label.detections]
        for detection in copies:
            detection.mask = np.ones((2, 2), bool)
        return fo.Detections(detections=copies).to_segmentation(frame_size=frame).mask

    segmentations(dataset, "plain", full)
    for field in ("masked", "files", "soft"):
        segmentations(dataset, field, lambda label, frame: label.to_segmentation(frame_size=frame).mask)
    for field in ("plain", "masked", "files", "soft"):
        annotate(dataset, f"labels:{field}")
        ours = heatmaps(dataset)
        annotate(dataset, f"labels:{field}_seg")
        assert same(ours, heatmaps(dataset)), field


def test_a_changed_box_is_noticed_and_other_attributes_are_not(dataset, annotate):
    for sample in dataset:
        sample["boxes"] = fo.Detections(detections=[fo.Detection(label="person", bounding_box=[0.2, 0.2, 0.6, 0.6])])
        sample.save()
    assert summary(annotate(dataset, "labels:boxes"))["num_committed"] == 4
    assert summary(annotate(dataset, "labels:boxes"))["skipped"] == {"up to date": 4}
    sample = dataset.first()
    sample.boxes.detections[0].confidence = 0.5
    sample.save()
    assert summary(annotate(dataset, "labels:boxes"))["num_committed"] == 0
    sample.boxes.detections[0].bounding_box[2] = 0.5
    sample.save()
    assert summary(annotate(dataset, "labels:boxes"))["num_committed"] == 1


def test_broken_detections_cost_only_their_sample(quickstart, annotate, request):
    dataset = fo.load_dataset(quickstart).clone(f"targets-of-{request.node.name}")
    dataset.persistent = True
    good = {"_id": ObjectId(), "_cls": "Detection", "tags": [], "attributes": {}, "label": "person"}
    mask = zlib.compress(b"\\x93NUMPY")[:-3]
    cases = {
        "no box": {**good},
        "null box": {**good, "bounding_box": None},
        "NaN": {**good, "bounding_box": [0.1, float("nan"), 0.2, 0.2]},
        "pixels": {**good, "bounding_box": [120.0, 130.0, 200.0, 220.0]},
        "negative": {**good, "bounding_box": [0.5, 0.5, -0.1, 0.2]},
        "three": {**good, "bounding_box": [0.1, 0.1, 0.2]},
        "text": {**good, "bounding_box": "all of it"},
        "cut mask": {**good, "bounding_box": [0.1, 0.1, 0.5, 0.5], "mask": Binary(mask)},
        "empty mask": {**good, "bounding_box": [0.1, 0.1, 0.5, 0.5], "mask": Binary(b"")},
        "mask of text": {**good, "bounding_box": [0.1, 0.1, 0.5, 0.5], "mask": "x"},
        "no mask file": {**good, "bounding_box": [0.1, 0.1, 0.5, 0.5], "mask_path": "/no/such.png"},
    }
    fine = {
        "outside": ({**good, "bounding_box": [1.5, 0.1, 0.5, 0.5]}, UNSEEN),
        "tiny": ({**good, "bounding_box": [0.5, 0.5, 1e-6, 1e-6]}, UNSEEN),
        "number": ({**good, "label": 5, "bounding_box": [0.1, 0.1, 0.5, 0.5]}, "class not in label"),
        "over the edge": ({**good, "bounding_box": [-0.5, -0.5, 1.0, 1.0]}, None),
    }
    # MongoDB does not even hand out what is no label in the list.
    lists = {"no list": {"label": "person"}}
    fine |= {"number for a list": (3, "class not in label"), "numbers in the list": ([7], "class not in label")}
    dataset.add_sample_field("boxes", fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    ids = iter(dataset.values("id"))
    expected, skips, committed = {}, [], 0

    def store(detections):
        sample_id = next(ids)
        label = {"_cls": "Detections", "detections": detections}
        raw(dataset).update_one({"_id": ObjectId(sample_id)}, {"$set": {"boxes": label}})
        return sample_id

    for name, detection in cases.items():
        expected[store([detection])] = name
    for name, detections in lists.items():
        expected[store(detections)] = name
    for detection, reason in fine.values():
        store([detection] if isinstance(detection, dict) else detection)
        skips += [reason] if reason else []
        committed += reason is None
    done = annotate(dataset, "labels:boxes", code=1)
    failed = failures(done)
    assert {expected.get(i, i) for i in failed} == set(expected.values())
    for sample_id, error in failed.items():
        assert len(error) > 10 and "\\n" not in error and "panic" not in error, (expected[sample_id], error)
    counts = summary(done)
    assert counts["num_committed"] == committed == 1
    assert counts["skipped"] == {reason: skips.count(reason) for reason in ("class not in label", UNSEEN)} | {
        "no label": len(list(ids))
    }
    assert counts["num_read"] == len(dataset) == counts["num_committed"] + counts["num_skipped"] + counts["num_failed"]
    fo.delete_dataset(dataset.name)


# -------------------------------------------------------------------------------------------------------- polylines


def test_polygons_and_lines_are_where_fiftyone_draws_them(dataset, annotate):
    rng = np.random.default_rng(2)
    for sample in dataset:
        star = [[0.5 + r * np.cos(a), 0.5 + r * np.sin(a)] for a, r in zip(np.linspace(0, 6, 9), [0.2, 0.45] * 5, strict=False)]
        frame = [[[0.1, 0.1], [0.9, 0.12], [0.88, 0.9], [0.13, 0.87]], [[0.3, 0.3], [0.6, 0.3], [0.45, 0.7]]]
        crooked = [rng.uniform(-0.2, 1.2, (7, 2)).tolist()]
        for name, points in {"star": [star], "frame": frame, "crooked": crooked}.items():
            for filled in (True, False):
                line = fo.Polyline(label="person", points=points, closed=True, filled=filled)
                sample[f"{name}_{filled}"] = fo.Polylines(polylines=[line])
        sample["single"] = fo.Polyline(label="person", points=crooked, closed=False, filled=False)
        sample.save()
    fields = [f for f in dataset.get_field_schema() if f.startswith(("star", "frame", "crooked", "single"))]
    assert len(fields) == 7
    for field in fields:
        segmentations(dataset, field, lambda label, frame: label.to_segmentation(frame_size=frame).mask)
        annotate(dataset, f"labels:{field}")
        ours = heatmaps(dataset)
        annotate(dataset, f"labels:{field}_seg")
        theirs = heatmaps(dataset)
        assert ours.keys() == theirs.keys() == set(dataset.values("id")), field
        difference = max(np.abs(ours[i] - theirs[i]).max() for i in ours)
        print(f"{field}: {difference:.1e}")
        assert difference <= 0.02, field


# -------------------------------------------------------------------------------------------------- classifications


def logits(module, sample):
    from torchvision.transforms import v2

    import torch

    picture = Image.open(sample.filepath).convert("RGB")
    steps = v2.Compose([v2.Resize(72), v2.CenterCrop(64), v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)])
    with torch.no_grad():
        return module(steps(picture)[None])[0]


def test_each_sample_is_explained_for_its_own_class(dataset, annotate, classifier, torch_classifier):
    names = ["cat", "dog", "person", "cow"]
    for sample, name in zip(dataset, names, strict=True):
        sample["kind"] = fo.Classification(label=name)
        sample.save()
    done = annotate(dataset, "labels:kind", model=classifier, classes=None)
    assert summary(done)["skipped"] == {"label is not a class of the model": 1}
    field = "kind_grad_layer_1"
    for index, (sample, name) in enumerate(zip(dataset, names[:3], strict=False)):
        label = sample[field]
        assert label.target_class == name
        assert label.score == pytest.approx(float(logits(torch_classifier, sample)[index]), abs=1e-4)
    assert dataset.last()[field] is None
    again = annotate(dataset, "labels:kind", model=classifier, classes=None)
    assert summary(again)["skipped"] == {"label is not a class of the model": 1, "up to date": 3}
    # Another label, another class.
    first = dataset.first()
    first.kind.label = "person"
    first.save()
    assert summary(annotate(dataset, "labels:kind", model=classifier, classes=None))["num_committed"] == 1
    first.reload()
    assert first[field].target_class == "person"
    # With a class named, only its samples count.
    done = annotate(dataset, "labels:kind", model=classifier, classes="dog")
    assert summary(done)["num_committed"] == 1 and summary(done)["skipped"] == {"class not in label": 3}
    assert heatmaps(dataset, "dog_grad_layer_1").keys() == {dataset.values("id")[1]}


def test_a_class_that_the_model_does_not_predict_is_not_one_that_a_label_lacks(dataset, annotate):
    counts = summary(annotate(dataset, "predicted", classes="sheep"))
    assert counts["num_committed"] == 0 and counts["skipped"] == {"class not predicted": len(dataset)}


def test_all_classes_of_a_field_are_those_that_occur_and_are_known(dataset, annotate, classifier):
    occurring = [["cat", "dog"], ["dog", "unicorn"], ["unicorn"], []]
    for sample, names in zip(dataset, occurring, strict=True):
        sample["kinds"] = fo.Classifications(classifications=[fo.Classification(label=name) for name in names])
        sample["boxes"] = fo.Detections(
            detections=[fo.Detection(label=name, bounding_box=[0.25, 0.25, 0.5, 0.5]) for name in names]
        )
        sample.save()
    for field in ("kinds", "boxes"):
        done = annotate(dataset, f"labels:{field}", "--field", f"{field}_{{class}}", model=classifier, classes="all")
        ids = dataset.values("id")
        assert heatmaps(dataset, f"{field}_cat").keys() == {ids[0]}, field
        assert heatmaps(dataset, f"{field}_dog").keys() == {ids[0], ids[1]}, field
        assert f"{field}_person" not in dataset.get_field_schema(), "nobody has it"
        assert "`unicorn`" in done.stderr + done.stdout, "what the model does not know is said"
    # A classifier has no pixels: where a box lies does not matter.
    assert same(heatmaps(dataset, "kinds_dog"), heatmaps(dataset, "boxes_dog"))
    assert dataset.first()["kinds_dog"].target_class == "dog"


# ------------------------------------------------------------------------------------------------------ top and pixel


def test_the_top_class_of_each_sample(dataset, annotate, classifier, torch_classifier):
    done = annotate(dataset, "top", model=classifier, classes=None, field="{class}_{layer}")
    assert summary(done)["num_committed"] == 4
    for sample in dataset:
        wanted = logits(torch_classifier, sample)
        field = next(f for f in dataset.get_field_schema() if f.startswith("top_"))
        assert sample[field].target_class == ["cat", "dog", "person"][int(wanted.argmax())]
        assert sample[field].score == pytest.approx(float(wanted.max()), abs=1e-4)
    # Of the segmentation model it is the person, the only class besides the background that it knows.
    annotate(dataset, "predicted")
    annotate(dataset, "top", classes=None)
    assert set(dataset.values("top_grad_layer_4.target_class")) == {"person"}
    assert same(heatmaps(dataset), heatmaps(dataset, "top_grad_layer_4"))


def test_one_pixel(dataset, annotate):
    """Against pytorch_grad_cam with a mask of one pixel at the same place in the model's output."""
    import quickstart_data

    sample = dataset.first()
    one = dataset.limit(1).clone(f"{dataset.name}-one", persistent=True)
    width, height = size(sample)
    rows, columns = np.nonzero(person(sample))
    x, y = int(columns[len(columns) // 2]), int(rows[len(rows) // 2])
    annotate(one, f"pixel={x},{y}", "--exact")
    ours = heatmaps(one)[one.first().id]
    model = quickstart_data.standin_model()
    pixels = model.transforms(Image.open(sample.filepath).convert("RGB"))[None]
    mask = np.zeros(pixels.shape[2:], np.uint8)
    mask[int((y + 0.5) / height * mask.shape[0]), int((x + 0.5) / width * mask.shape[1])] = 1
    wanted = reference.grad_cam(model._model.cpu(), pixels, mask[None], PERSON)["layer4"][0]
    print(f"pixel {x},{y}: mean {np.abs(ours - wanted).mean():.1e}")
    assert ours.max() > 0.9
    assert np.abs(ours - wanted).mean() <= 1e-3
    # The class of another pixel is another matter, and one outside is none.
    annotate(one, f"pixel={width - 1 - x},{height - 1}", "--exact")
    assert np.abs(heatmaps(one)[one.first().id] - ours).mean() > 1e-3
    for outside in (f"pixel={width},{y}", f"pixel={x},{height}"):
        assert summary(annotate(one, outside))["skipped"] == {"pixel outside the image": 1}
    fo.delete_dataset(one.name)


# ----------------------------------------------------------------------------------------------------------- refusals


def test_wrong_jobs_are_refused_with_what_is_possible(dataset, annotate, classifier, classifier_file, camflow, tmp_path):
    for sample in dataset:
        sample["boxes"] = fo.Detections(detections=[fo.Detection(label="unicorn", bounding_box=[0, 0, 1, 1])])
        sample["kinds"] = fo.Classifications(classifications=[fo.Classification(label="cat")])
        sample.save()

    def told(target, **more):
        text = annotate(dataset, target, code=2, **more).stderr
        assert "hint" in text, text
        return text

    text = told("labels:ground_truth", classes=None)
    assert "--class" in text and "--target top" in text and "(Segmentation)" in text
    assert "`labels:boxes` (Detections)" in told("labels:boxes", classes=None)
    assert "--class all" in told("labels:kinds", classes=None)
    assert "needs `--class`" in told("predicted", classes=None)
    assert "needs `--class`" in told("pixel=3,4", classes=None)
    assert "takes no `--class" in told("top")
    assert "one score per class, not per pixel" in told("pixel=3,4", model=classifier)
    text = told("labels:boxes", classes="all")
    assert "`unicorn`" in text and "`boxes`" in text
    text = told("labels:filepath")
    assert "StringField" in text and "`boxes` (Detections)" in text and "`kinds` (Classifications)" in text
    assert "`boxes`" in told("labels:boxe")
    camflow("annotate", "--dataset", dataset.name, "--target", "pixel=1", code=2)

    boxes = tmp_path / "boxes.pt2"
    camflow("export", f"{classifier_file}:boxes", "--out", boxes)
    text = told("predicted", model=boxes, classes="cat")
    assert "[2, 6, 4]" in text and "camflow export file.py:function" in text
    detector = tmp_path / "detector.pt2"
    camflow("export", f"{classifier_file}:detector", "--out", detector)
    text = told("top", model=detector, classes=None)
    assert "gives boxes" in text and "camflow export file.py:function" in text
    out = tmp_path / "odd-maps"
    text = camflow("explain", dataset.first().filepath, "--model", detector, "--out", out, code=2).stderr
    assert "gives boxes" in text and not out.exists()
    assert not any("_grad_layer_" in f for f in dataset.get_field_schema()), "nothing was written"


def test_the_only_field_that_fits_is_chosen(dataset, annotate):
    for field in ("ground_truth", "ground_truth_path", "resnet50_seg"):
        if field in dataset.get_field_schema():
            dataset.delete_sample_field(field)
    for sample in dataset:
        sample["boxes"] = fo.Detections(detections=[fo.Detection(label="person", bounding_box=[0.1, 0.1, 0.8, 0.8])])
        sample["kind"] = fo.Classification(label="person")
        sample.save()
    done = annotate(dataset, "labels")
    assert summary(done)["num_committed"] == 4
    assert "`labels:boxes` (Detections)" in done.stdout + done.stderr
    assert len(dataset.match(F(FIELD).exists())) == 4
    for sample in dataset:
        sample["more"] = sample.boxes.copy()
        sample.save()
    text = annotate(dataset, "labels", code=2).stderr
    assert "`boxes` (Detections)" in text and "`more` (Detections)" in text and "`kind` (Classification)" in text


def test_rgb_masks(dataset, annotate):
    for sample in dataset:
        rgb = np.zeros((*person(sample).shape, 3), np.uint8)
        rgb[person(sample)] = (255, 109, 4)
        sample["rgb"] = fo.Segmentation(mask=rgb)
        sample.save()
    dataset.mask_targets = {**dataset.mask_targets, "rgb": {"#ff6d04": "person"}}
    dataset.save()
    annotate(dataset, "labels:ground_truth")
    wanted = heatmaps(dataset)
    annotate(dataset, "labels:rgb")
    assert same(heatmaps(dataset), wanted)
