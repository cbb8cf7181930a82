"""A heatmap for each detection: against pytorch_grad_cam, in repeated runs, and what becomes of it when it is removed."""

from __future__ import annotations

import csv
import json
import os
from itertools import combinations
from pathlib import Path

import hugging_face_folders as folders
import numpy as np
import pytest
import small_levels as levels
from camflow import load
from PIL import Image
from small_detector import SIZE, apart, corners, iou, picture, reference, tensor

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo
import transformers
from pytorch_grad_cam import LayerCAM

import torch

FIELD = "dog_layercam_layer_2_detections"
SHOWN = "dog_layercam_layer_2"
DOG = 1
MEASURES = ("score", "confidence", "energy_inside", "energy_ratio", "pointing_hit", "best_iou", "object_area")
# Where no query of this network has its box.
NOWHERE = [0.97, 0.97, 0.02, 0.02]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folders.save(folders.spread_detr, tmp_path_factory.mktemp("detr") / "detr")


@pytest.fixture(scope="module")
def small_levels(camflow, tmp_path_factory):
    """A convolutional detector, and its model."""
    path = tmp_path_factory.mktemp("levels") / "levels.pt2"
    camflow("export", f"{levels.__file__}:net", "--out", path)
    return levels.net(), path


@pytest.fixture(scope="module")
def model(camflow, folder):
    path = folder.parent / "detr.pt2"
    camflow("export", folder, "--out", path)
    return path


@pytest.fixture(scope="module")
def detector(folder):
    return transformers.DetrForObjectDetection.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def predicted(detector):
    """Of each picture, boxes that mean different predictions: left, top, width, height."""
    counts = (5, 2, 1, 1)
    return [apart(detector, picture(number), DOG, count) for number, count in enumerate(counts)]


def ellipse(rows: int = 30, columns: int = 40) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    return y**2 + x**2 < 1


@pytest.fixture
def dataset(database, predicted, request, tmp_path):
    """Four pictures: three dogs (one an instance) and a cat; two dogs, one of them where nothing is predicted; one such dog alone; a
    cat."""
    made = fo.Dataset(f"{request.node.name}-per", persistent=True)

    def detection(label, box, **more):
        return fo.Detection(label=label, bounding_box=np.asarray(box).tolist(), **more)

    labels = [
        [
            detection("dog", predicted[0][0]),
            detection("dog", predicted[0][1], mask=ellipse()),
            detection("cat", predicted[0][0]),
            detection("dog", predicted[0][2] + [0.005, 0.005, -0.01, 0.005]),
        ],
        [detection("dog", NOWHERE), detection("dog", predicted[1][0])],
        [detection("dog", NOWHERE)],
        [detection("cat", predicted[3][0])],
    ]
    for number, detections in enumerate(labels):
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture(number)).save(path)
        made.add_sample(fo.Sample(str(path), truth=fo.Detections(detections=detections)))
    yield made
    fo.delete_dataset(made.name)


@pytest.fixture
def annotate(camflow, model, dataset, tmp_path):
    """Runs it, and gives what the run says at its end."""

    def run(*more, code=0):
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--model", model, "--target", "labels:truth", "--class", "dog"),
            *("--out", tmp_path / "maps", "--device", "cpu", "--exact", "--per-detection", "--format", "json", *more),
            code=code,
        )
        dataset.reload()
        return next((event for event in done.events if event["event"] == "run_finished"), done)

    return run


def dogs(sample) -> list[fo.Detection]:
    return [one for one in sample.truth.detections if one.label == "dog"]


def kept(sample) -> list[fo.Detection]:
    """The detections that have heatmaps."""
    return sample[FIELD].detections if FIELD in sample.field_names and sample[FIELD] is not None else []


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.suffix in (".png", ".npy")}


def referred(dataset) -> set[str]:
    found = [one for sample in dataset for one in kept(sample)]
    return {Path(path).name for one in found for path in (one.map_path, one.npy_path)}


def confidence(detector, image, bounding_box) -> float:
    """The probability of the class in the prediction that a box means."""
    with torch.no_grad():
        found = detector(pixel_values=tensor(image))
    left, top, width, height = bounding_box
    box = np.array([left, top, left + width, top + height])
    overlaps = np.array([iou(box, other) for other in corners(found.pred_boxes)[0].numpy()])
    chances = found.logits.softmax(-1)[0, :, DOG].numpy()
    return float(chances[np.where(overlaps >= 0.5, overlaps * chances, -1).argmax()])


def inside(detection) -> np.ndarray:
    """The pixels of a detection in the model's input, bool."""
    height, width = SIZE
    left, top, across, down = detection.bounding_box
    if detection.mask is None:
        own = np.zeros(SIZE, bool)
        own[int(top * height) : int((top + down) * height), int(left * width) : int((left + across) * width)] = True
        return own
    whole = fo.Detections(detections=[detection]).to_segmentation(frame_size=(width, height), mask_targets={1: "dog"})
    return whole.mask > 0


def test_each_heatmap_is_of_the_prediction_that_its_box_means(annotate, detector, dataset):
    finished = annotate("--npy", "f32")
    assert (finished["num_committed"], finished["num_heatmaps"], finished["num_unmatched"]) == (2, 4, 2)
    assert finished["skipped"] == {"class not in label": 1, "class not predicted": 1}
    for number, sample in enumerate(dataset):
        wanted = {one.id: one for one in dogs(sample) if one.bounding_box != NOWHERE}
        found = {one.id: one for one in kept(sample)}
        assert found.keys() == wanted.keys()
        for key, one in found.items():
            assert (one.label, one.bounding_box, one.target_class) == ("dog", wanted[key].bounding_box, "dog")
            heatmap, score = reference(LayerCAM, detector, picture(number), [one.bounding_box], DOG)
            assert one.score == pytest.approx(score, rel=1e-4, abs=1e-5)
            assert one.confidence == pytest.approx(confidence(detector, picture(number), one.bounding_box), rel=1e-4)
            assert np.abs(load(one) - heatmap).max() < 1e-4
            # The picture that the App draws is of the same map.
            assert np.abs(np.asarray(Image.open(one.map_path)) / 255 - heatmap).max() < 1 / 255 + 1e-4
            own = inside(wanted[key])
            share = float(heatmap[own].sum() / heatmap.sum())
            # Masks are resized by FiftyOne and by camflow, which may differ in a pixel at the edge.
            loose = 0.03 if wanted[key].mask is not None else 1e-3
            assert one.energy_inside == pytest.approx(share, rel=loose)
            assert one.object_area == pytest.approx(own.mean(), rel=loose)
            assert one.energy_ratio == pytest.approx(one.energy_inside / one.object_area, rel=1e-6)
    # What a detection is explained by is its own.
    first = [load(one) for one in kept(dataset.first())]
    assert all(np.abs(one - other).max() > 0.05 for one, other in combinations(first, 2))
    # Of the instance less counts than its box.
    box, instance = (next(one for one in kept(dataset.first()) if one.id == dogs(dataset.first())[n].id) for n in (0, 1))
    assert box.object_area == pytest.approx(np.prod(box.bounding_box[2:]), rel=0.05)
    assert instance.object_area == pytest.approx(np.pi / 4 * np.prod(instance.bounding_box[2:]), rel=0.1)
    # The user's own labels are as they were.
    assert all("score" not in one.field_names for sample in dataset for one in sample.truth.detections)


def test_a_heatmap_of_one_detection_is_that_of_a_class_that_has_no_other(annotate, camflow, model, dataset, tmp_path):
    """The same number to the last bit, by another way."""
    annotate("--npy", "f32")
    camflow(
        *("annotate", "--dataset", dataset.name, "--model", model, "--target", "labels:truth", "--class", "dog"),
        *("--out", tmp_path / "maps", "--device", "cpu", "--exact", "--npy", "f32"),
    )
    dataset.reload()
    second = list(dataset)[1]
    (one,) = kept(second)
    assert np.array_equal(load(one), load(second[SHOWN]))
    assert one.score == second[SHOWN].score and one.confidence == second[SHOWN].confidence


def test_fiftyone_reads_sorts_and_filters_by_the_measures(annotate, dataset):
    annotate()
    dataset.validate_field_type(FIELD, fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    schema = dataset.get_field_schema(flat=True)
    assert all(f"{FIELD}.detections.{name}" in schema for name in (*MEASURES, "map_path", "npy_path"))
    values = dataset.values(f"{FIELD}.detections.energy_inside", unwind=True)
    values = [value for value in values if value is not None]
    assert len(values) == 4
    patches = dataset.to_patches(FIELD).sort_by(f"{FIELD}.energy_inside", reverse=True)
    assert patches.values(f"{FIELD}.energy_inside") == sorted(values, reverse=True)
    least = dataset.filter_labels(FIELD, fo.ViewField("energy_inside") < np.median(values))
    assert least.count(f"{FIELD}.detections") == 2
    # They are joined to what they are of by the id, as patches, too.
    truth = dataset.to_patches("truth").select(patches.values("id"), ordered=True)
    assert truth.values("truth.bounding_box") == patches.values(f"{FIELD}.bounding_box")
    # A label that FiftyOne writes with the same attributes gets the same declaration.
    entry = next(field for field in dataset._doc.to_dict()["sample_fields"] if field["name"] == FIELD)
    copied = fo.Dataset()
    try:
        copied.add_sample(fo.Sample("a.png", **{FIELD: dataset.first()[FIELD].copy()}), dynamic=True)
        theirs = next(field for field in copied._doc.to_dict()["sample_fields"] if field["name"] == FIELD)
    finally:
        copied.delete()
    assert declared(entry).items() >= declared(theirs).items()


def declared(entry: dict, path: str = "") -> dict[str, tuple]:
    """By path, what a schema's entry says of the types."""
    here = {path: tuple(entry[key] for key in ("ftype", "embedded_doc_type", "subfield", "db_field"))}
    for inner in entry["fields"]:
        # FiftyOne looks into these only when they are loaded.
        if inner["name"] not in ("attributes", "instance"):
            here |= declared(inner, f"{path}.{inner['name']}")
    return here


def test_only_what_changed_is_computed_again(annotate, dataset, predicted, tmp_path):
    assert annotate()["num_committed"] == 2
    first = referred(dataset)
    assert first == files(tmp_path / "maps") and len(first) == 8
    # What is all up to date. The dog that means nothing is looked at again: the model alone knows.
    again = annotate()
    assert (again["num_committed"], again["skipped"]["up to date"], again["num_unmatched"]) == (0, 2, 1)

    sample = dataset.first()
    tagged = kept(sample)[0]
    tagged.tags.append("seen")
    tagged["note"] = "mine"
    sample.save()
    moved = dogs(sample)[2]
    moved.bounding_box = predicted[0][3].tolist()
    sample.save()
    changed = annotate()
    assert (changed["num_committed"], changed["num_heatmaps"], changed["skipped"]["up to date"]) == (1, 3, 1)
    by_id = {one.id: one for one in kept(dataset.first())}
    assert by_id[moved.id].bounding_box == moved.bounding_box
    assert (by_id[tagged.id].tags, by_id[tagged.id]["note"]) == (["seen"], "mine"), "what people add stays"
    # Files of before stay for their grace period, and nothing refers to them.
    old = first - referred(dataset)
    assert len(old) == 6 and old < files(tmp_path / "maps")

    # One goes, one comes.
    sample = dataset.first()
    gone = sample.truth.detections.pop(0)
    sample.truth.detections.append(fo.Detection(label="dog", bounding_box=predicted[0][4].tolist()))
    sample.save()
    assert annotate("--grace", "0")["num_heatmaps"] == 3
    assert gone.id not in {one.id for one in kept(dataset.first())}
    assert {one.id for one in kept(dataset.first())} == {one.id for one in dogs(dataset.first())}
    assert files(tmp_path / "maps") == referred(dataset), "what nothing refers to is gone"

    # The same boxes under other ids would be joined to nothing.
    sample = dataset.first()
    sample.truth = fo.Detections(
        detections=[fo.Detection(label=one.label, bounding_box=one.bounding_box) for one in sample.truth.detections]
    )
    sample.save()
    assert annotate()["num_committed"] == 1
    assert {one.id for one in kept(dataset.first())} == {one.id for one in dogs(dataset.first())}

    Path(kept(dataset.first())[1].map_path).unlink()
    assert annotate()["num_committed"] == 1, "a file that is missing is made again"
    assert annotate("--overwrite")["num_committed"] == 2

    # The last dog goes, and so does the list.
    sample = list(dataset)[1]
    sample.truth.detections = [fo.Detection(label="cat", bounding_box=NOWHERE)]
    sample.save()
    last = annotate("--grace", "0")
    assert last["num_withdrawn"] == 1 and list(dataset)[1][FIELD] is None
    assert files(tmp_path / "maps") == referred(dataset)


def test_the_saved_view_shows_the_heatmaps_as_they_are(annotate, dataset, predicted):
    annotate()
    view = dataset.load_saved_view(FIELD)
    first = {patch.id: patch[SHOWN] for patch in view}
    stored = {one.id: one for sample in dataset for one in kept(sample)}
    assert first.keys() == stored.keys() and len(first) == 4
    for key, heatmap in first.items():
        assert isinstance(heatmap, fo.Heatmap) and heatmap.map_path == stored[key].map_path
        assert [heatmap[name] for name in MEASURES] == [stored[key][name] for name in MEASURES]
        assert (heatmap.method, heatmap.layer) == ("layercam", "model.encoder.layers.1")
        assert np.array_equal(load(heatmap), load(stored[key]))
    # FiftyOne keeps what a saved view showed when it was loaded first.
    sample = dataset.first()
    moved = dogs(sample)[2]
    moved.bounding_box = predicted[0][3].tolist()
    sample.save()
    annotate()
    again = {patch.id: patch[SHOWN].map_path for patch in dataset.load_saved_view(FIELD)}
    assert again.keys() == first.keys() and again[moved.id] != first[moved.id].map_path
    # Whoever deletes it does not want it.
    dataset.delete_saved_view(FIELD)
    annotate("--overwrite")
    assert not dataset.has_saved_view(FIELD)


def test_damaged_and_missing_files_of_detections_are_found(annotate, camflow, dataset, tmp_path):
    annotate()
    check = ("check", "--dataset", dataset.name)
    assert "4 heatmaps with 8 files looked at" in camflow(*check).stdout
    hurt, lost = kept(dataset.first())[:2]
    content = bytearray(Path(hurt.npy_path).read_bytes())
    content[-3] ^= 1
    Path(hurt.npy_path).write_bytes(content)
    camflow(*check)
    found = camflow(*check, "--read-data", code=1).stdout
    assert f"field `{FIELD}`: `{hurt.npy_path}`" in found and "1 damaged" in found and "noted in their labels: 1" in found
    dataset.reload()
    noted = [one.npy_checksum.startswith("damaged:") for one in kept(dataset.first())]
    assert noted == [True, False, False]
    again = annotate()
    assert (again["num_committed"], again["num_heatmaps"]) == (1, 3)
    assert "0 damaged" in camflow(*check, "--read-data").stdout

    lost = kept(dataset.first())[1]
    Path(lost.map_path).unlink()
    clean = ("clean", "--dataset", dataset.name, "--out", tmp_path / "maps", "--apply", "--grace", "0", "--force")
    cleaned = camflow(*clean)
    assert Path(lost.map_path).name in cleaned.stdout + cleaned.stderr
    camflow(*clean)
    dataset.reload()
    # The whole list goes, to be made again, and all files that nothing refers to.
    assert dataset.first()[FIELD] is None and SHOWN in dataset.get_field_schema()
    assert files(tmp_path / "maps") == referred(dataset)
    assert annotate()["num_heatmaps"] == 3


def test_a_dry_run_counts_detections_and_changes_nothing(camflow, model, dataset, tmp_path):
    done = camflow(
        *("annotate", "--dataset", dataset.name, "--model", model, "--target", "labels:truth", "--class", "dog"),
        *("--out", tmp_path / "maps", "--per-detection", "--dry-run"),
    )
    # What no prediction overlaps, only the model says.
    assert "3 would be annotated (6 heatmaps)" in done.stdout + done.stderr
    dataset.reload()
    assert FIELD not in dataset.get_field_schema() and SHOWN not in dataset.get_field_schema()
    assert not (tmp_path / "maps").exists() or not files(tmp_path / "maps")


def test_the_summary_tells_boxes_that_mean_nothing(camflow, model, dataset, tmp_path):
    done = camflow(
        *("annotate", "--dataset", dataset.name, "--model", model, "--target", "labels:truth", "--class", "dog"),
        *("--out", tmp_path / "maps", "--device", "cpu", "--per-detection"),
    )
    told = done.stdout + done.stderr
    assert "2 annotated (4 heatmaps)" in told
    assert "boxes without a heatmap, as no prediction of the model overlaps them by half: 2" in told


def test_polylines_and_several_classes(annotate, dataset, predicted, tmp_path):
    left, top, width, height = predicted[0][0]
    outline = [(left, top), (left + width, top), (left + width, top + height), (left, top + height)]
    # The upper left half of it.
    lines = [fo.Polyline(label="dog", points=[outline[:2] + outline[3:]], closed=True, filled=True)]
    lines += [fo.Polyline(label="cat", points=[outline], closed=True, filled=False), fo.Polyline(label="dog", points=[])]
    sample = dataset.first()
    sample["lines"] = fo.Polylines(polylines=lines)
    sample.save()
    finished = annotate("--target", "labels:lines", "--class", "cat")
    assert (finished["num_committed"], finished["num_failed"], finished["num_heatmaps"]) == (1, 0, 2)
    (dog,), (cat,) = (dataset.first()[f"{name}_layercam_layer_2_detections"].detections for name in ("dog", "cat"))
    assert (dog.id, cat.id) == (lines[0].id, lines[1].id)
    assert dog.bounding_box == pytest.approx([left, top, width, height], abs=1e-6)
    assert np.abs(load(dog) - load(cat)).max() > 1e-3, "of other classes"
    assert dog.object_area == pytest.approx(width * height / 2, rel=0.1)


def test_the_field_is_no_target_unless_it_is_named(annotate, dataset, camflow, model, tmp_path):
    annotate()
    # There is one field of detections that the user made.
    done = camflow(
        *("annotate", "--dataset", dataset.name, "--model", model, "--class", "dog", "--out", tmp_path / "maps"),
        *("--device", "cpu", "--dry-run"),
    )
    assert "labels:truth" in done.stdout + done.stderr


def test_what_has_no_detections_is_refused(annotate, camflow, dataset, model, standin_model, tmp_path):
    for sample in dataset:
        sample["masks"] = fo.Segmentation(mask=np.ones((8, 8), np.uint8))
        sample["scene"] = fo.Classification(label="dog")
        sample["taken"] = fo.Detections()
        sample.save()
    begin = ["annotate", "--dataset", dataset.name, "--out", tmp_path / "maps", "--class", "dog", "--per-detection"]
    refused = camflow(*begin, "--class", "person", "--model", standin_model, "--target", "labels:truth", code=2).stderr
    assert "is no detector" in refused and "has one heatmap, of all its boxes" in refused
    begin += ["--model", model]
    assert "`target` is `labels` or `labels:FIELD`" in camflow(*begin, "--target", "predicted", code=2).stderr
    for field, kind in [("masks", "Segmentation"), ("scene", "Classification")]:
        refused = camflow(*begin, "--target", f"labels:{field}", code=2).stderr
        assert f"field `{field}` has none: it is of type {kind}" in refused, refused
    begin += ["--target", "labels:truth"]
    assert "too large for MongoDB" in camflow(*begin, "--store", "inline", code=2).stderr
    dataset.clone_sample_field("taken", FIELD)
    dataset.reload()
    refused = camflow(*begin, code=2).stderr
    assert "detections that camflow did not make" in refused and "--field" in refused


def test_another_model_replaces_nothing_unasked(annotate, camflow, dataset, folder, tmp_path):
    annotate()
    other = folders.save(folders.detr, tmp_path / "other")
    camflow("export", other, "--out", tmp_path / "other.pt2")
    refused = annotate("--model", tmp_path / "other.pt2", code=2).stderr
    assert f"field `{FIELD}` holds 2 heatmaps" in refused and "--replace" in refused


def test_all_of_it_can_be_removed(annotate, camflow, dataset, tmp_path):
    before = dataset.get_field_schema(flat=True).keys()
    annotate()
    assert dataset.has_saved_view(FIELD) and len(files(tmp_path / "maps")) == 8
    # FiftyOne keeps the patches of a view that was loaded, which refer to the files, too.
    assert len(dataset.load_saved_view(FIELD)) == 4
    (run,) = dataset.list_runs(method="camflow")
    listed = camflow("remove", "--dataset", dataset.name, run).stdout
    assert f"would remove field `{FIELD}`: 4 heatmaps" in listed
    camflow("remove", "--dataset", dataset.name, run, "--apply", "--grace", "0")
    dataset.reload()
    assert dataset.get_field_schema(flat=True).keys() == before
    assert not dataset.has_saved_views and not dataset.list_runs(method="camflow")
    assert files(tmp_path / "maps") == set()
    assert all(len(sample.truth.detections) for sample in dataset)


def test_heatmaps_of_a_class_stay_when_those_of_its_detections_go(annotate, camflow, dataset, model, tmp_path):
    annotate()
    camflow(
        *("annotate", "--dataset", dataset.name, "--model", model, "--target", "labels:truth", "--class", "dog"),
        *("--out", tmp_path / "maps", "--device", "cpu"),
    )
    camflow("remove", "--dataset", dataset.name, "--fields", FIELD, "--apply")
    dataset.reload()
    assert FIELD not in dataset.get_field_schema()
    assert dataset.count(SHOWN) == 2


def test_each_detection_says_what_its_heatmap_lies_on(annotate, dataset):
    annotate("--attention-on", "truth")
    for sample in dataset:
        masks = {}
        for one in sample.truth.detections:
            masks[one.label] = masks.get(one.label, False) | inside(one)
        for one in kept(sample):
            heatmap = load(one).astype(float)
            found = {part.label: part for part in one.attention}
            assert found.keys() == {*masks, None} and one.attention_on == "truth" and one.attended_class in masks
            for name, mask in masks.items():
                # Boxes are drawn over the image and resized by nearest neighbour.
                assert found[name].share == pytest.approx(heatmap[mask].sum() / heatmap.sum(), rel=0.05, abs=0.01)
                assert found[name].area == pytest.approx(mask.mean(), rel=0.05)
    patch = next(patch for patch in dataset.load_saved_view(FIELD) if patch[SHOWN] is not None)
    assert patch[SHOWN].attention[-1].label is None and patch[SHOWN].attention_on == "truth"
    annotate()
    assert all((one.attention, one.attended_class) == (None, None) for sample in dataset for one in kept(sample))


def test_two_methods_are_compared_detection_by_detection(dataset, annotate, camflow, tmp_path):
    annotate("--method", "layercam,gradcam", "--layers", 2)
    other = FIELD.replace("layercam", "grad")
    file = tmp_path / "numbers.json"
    files = ("--out", tmp_path / "page.html", "--json", file, "--csv", tmp_path / "pairs.csv")
    camflow("compare", "--dataset", dataset.name, FIELD, other, *files)
    numbers = json.loads(file.read_text())
    both = {one.id: [one] for sample in dataset for one in kept(sample)}
    for sample in dataset:
        for one in sample[other].detections if sample[other] is not None else []:
            both[one.id].append(one)
    assert len(both) >= 4 and all(len(pair) == 2 for pair in both.values())
    with (tmp_path / "pairs.csv").open() as lines:
        rows = {row["detection"]: row for row in csv.DictReader(lines)}
    assert rows.keys() == both.keys() and numbers["num_pairs"] == len(both)
    for id_, (a, b) in both.items():
        # A heatmap of zeros has none.
        inside = [float(rows[id_][f"energy_inside_{side}"] or "nan") for side in "ab"]
        assert inside == pytest.approx(
            [np.nan if one.energy_inside is None else one.energy_inside for one in (a, b)], nan_ok=True
        )
        assert rows[id_]["class"] == "dog" and rows[id_]["method_b"] == "gradcam"
    assert numbers["series"][0]["around_objects"]["num_objects"] == len(both)


def test_floats_of_one_level_are_kept_as_the_level_has_them(camflow, database, small_levels, tmp_path):
    """Predictions of the first level depend on no other; those of the last on all of them."""
    network, model = small_levels
    made = fo.Dataset("floats-of-levels", persistent=True)
    Image.fromarray(picture(0)).resize(levels.SIZE[::-1]).save(tmp_path / "0.png")
    chosen = {"first": [0, 430, 959], "last": [1200, 1231]}
    boxes = {
        level: [
            [left, top, right - left, bottom - top] for left, top, right, bottom in network.places[0].numpy()[places].tolist()
        ]
        for level, places in chosen.items()
    }
    detections = [fo.Detection(label="class 1", bounding_box=box, level=level) for level in boxes for box in boxes[level]]
    made.add_sample(fo.Sample(str(tmp_path / "0.png"), truth=fo.Detections(detections=detections)))
    level_of = {one.id: one.level for one in made.first().truth.detections}
    asked = ("--target", "labels:truth", "--class", "class 1", "--per-detection", "--device", "cpu", "--out", tmp_path / "maps")
    found = []
    try:
        for way in (("--npy", "f32"), ("--overwrite",)):
            camflow("annotate", "--dataset", made.name, "--model", model, *asked, *way)
            made.reload()
            (field,) = (name for name in made.get_field_schema() if name.endswith("_detections"))
            kept = [(level_of[one.id], np.load(one.npy_path), load(one)) for one in made.first()[field].detections]
            found.append(kept)
    finally:
        made.delete()
    whole, small = found
    assert len(whole) == len(small) == 5 and sum(heatmap.any() for _, _, heatmap in whole) >= 3
    for (level, floats, heatmap), (_, own, again) in zip(whole, small, strict=True):
        assert floats.shape == heatmap.shape == levels.SIZE and np.array_equal(floats, heatmap)
        assert own.shape == ((24, 40) if level == "first" else levels.SIZE), level
        assert np.abs(again - heatmap).max() <= 1e-6


# The layer `first` gives what its last part does.
@pytest.mark.parametrize(
    "method, layers", [("layercam", ()), ("gradcam", ("--layers", "first,first.2,second,last", "--fuse-layers"))]
)
def test_gradients_are_those_of_the_whole_layers(camflow, database, small_levels, tmp_path, method, layers):
    """Without `--exact` a gradient is computed where it is not zero: at borders, in several levels at once, in batches."""
    network, model = small_levels
    made = fo.Dataset(f"patches-{method}", persistent=True)
    generator, places = np.random.default_rng(0), network.places[0].numpy()
    for number in range(3):
        Image.fromarray(picture(number)).resize(levels.SIZE[::-1]).save(tmp_path / f"{number}.png")
        # The corners of each level, and others.
        chosen = {0, 39, 920, 959, 960, 979, 1180, 1199, 1200, 1209, 1250, 1259, *generator.integers(0, len(places), 12).tolist()}
        boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in places[sorted(chosen)].tolist()]
        detections = [fo.Detection(label="class 1", bounding_box=box) for box in boxes]
        made.add_sample(fo.Sample(str(tmp_path / f"{number}.png"), truth=fo.Detections(detections=detections)))
    try:
        found = {}
        for way in (("--exact",), ("--batch-size", "1"), ("--batch-size", "3")):
            for each in (("--per-detection",), ()):
                asked = [
                    "--target",
                    "labels:truth",
                    "--class",
                    "class 1",
                    "--npy",
                    "f32",
                    "--device",
                    "cpu",
                    "--method",
                    method,
                    *layers,
                ]
                out = ("--out", tmp_path / "maps", "--overwrite")
                camflow("annotate", "--dataset", made.name, "--model", model, *out, *asked, *way, *each)
            made.reload()
            names = [name for name in made.get_field_schema() if name.startswith("class_1_")]
            (of_each,) = (name for name in names if name.endswith("_detections"))
            found[way] = {
                one.id: (one.score, load(one))
                for sample in made
                for one in (*sample[of_each].detections, sample[of_each.removesuffix("_detections")])
            }
    finally:
        made.delete()
    exact, *others = found.values()
    labels = [(score, heatmap) for score, heatmap in exact.values()]
    assert len(labels) > 50 and sum(heatmap.any() for _, heatmap in labels) > 40
    for other in others:
        # Labels of samples get new ids.
        for (score, heatmap), (wanted_score, wanted) in zip(other.values(), labels, strict=True):
            assert score == pytest.approx(wanted_score, rel=1e-3, abs=1e-4)
            assert np.abs(heatmap - wanted).max() < 1e-3
