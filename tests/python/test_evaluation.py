"""What FiftyOne's evaluation of detections found, at their heatmaps (`--eval-key`) and first in the report."""

from __future__ import annotations

import csv
import json
import os

import hugging_face_folders as folders
import numpy as np
import pytest
import transformers
from PIL import Image
from small_detector import apart, picture

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo
from fiftyone import ViewField as F

DOG = 1
COUNTS = (5, 3, 4)
PREDICTED = "dog_layercam_layer_2_detections"


@pytest.fixture(scope="module")
def model(camflow, tmp_path_factory):
    folder = folders.save(folders.spread_detr, tmp_path_factory.mktemp("detr") / "detr")
    path = folder.parent / "detr.pt2"
    camflow("export", folder, "--out", path)
    detector = transformers.DetrForObjectDetection.from_pretrained(folder).eval()
    return path, [apart(detector, picture(n), DOG, count) for n, count in enumerate(COUNTS)]


@pytest.fixture
def dataset(database, model, request, tmp_path):
    """Of each picture's predictions the first is an object, the last is an object that is not predicted, the others are none."""
    made = fo.Dataset(f"{request.node.name}-evaluated", persistent=True)
    for n, boxes in enumerate(model[1]):
        path = tmp_path / f"{n}.png"
        Image.fromarray(picture(n)).save(path)

        def dog(box, **more):
            return fo.Detection(label="dog", bounding_box=np.asarray(box).tolist(), **more)

        # The order of the list is not that of the confidences.
        predicted = [dog(box, confidence=0.3 + 0.1 * ((k * 2) % 5)) for k, box in enumerate(boxes[:-1])]
        predicted.append(fo.Detection(label="cat", bounding_box=[0.1, 0.1, 0.2, 0.2], confidence=0.99))
        labelled = [dog(boxes[0] + [0, 0, 0, 0.01]), dog(boxes[-1])]
        sample = fo.Sample(
            str(path), n=n, predictions=fo.Detections(detections=predicted), truth=fo.Detections(detections=labelled)
        )
        made.add_sample(sample)
    made.evaluate_detections("predictions", gt_field="truth", eval_key="eval")
    yield made
    fo.delete_dataset(made.name)


@pytest.fixture
def annotate(camflow, model, dataset, tmp_path):
    def run(*more, field="predictions", code=0):
        done = camflow(
            *("annotate", "--dataset", dataset.name, "--model", model[0], "--target", f"labels:{field}", "--class", "dog"),
            *("--out", tmp_path / "maps", "--device", "cpu", "--exact", "--per-detection", "--format", "json", *more),
            code=code,
        )
        dataset.reload()
        return next((event for event in done.events if event["event"] == "run_finished"), done)

    return run


def explained(dataset, field=PREDICTED, of="predictions") -> list[tuple[fo.Detection, fo.Detection, list]]:
    """The detections that have heatmaps: as they are labelled, the copies with the heatmaps, and all labels of their samples."""
    found = []
    for sample in dataset.sort_by("n"):
        labelled = {one.id: one for one in sample[of].detections}
        found += [(labelled[one.id], one, sample[of].detections) for one in sample[field].detections]
    return found


def test_each_heatmap_says_what_was_found_of_its_detection(dataset, annotate):
    assert annotate("--eval-key", "eval")["num_heatmaps"] == sum(COUNTS) - len(COUNTS)
    outcomes = []
    for label, copy, all_of_it in explained(dataset):
        assert (copy.outcome, copy.outcome_iou) == (label.eval, label.eval_iou if label.eval == "tp" else None)
        confidences = sorted((one.confidence for one in all_of_it), reverse=True)
        assert copy.rank == 1 + confidences.index(label.confidence), "of all classes"
        outcomes.append(copy.outcome)
    assert outcomes.count("tp") == len(COUNTS) and outcomes.count("fp") == sum(COUNTS) - 2 * len(COUNTS)
    # As a user of FiftyOne filters.
    wrong = dataset.filter_labels(PREDICTED, F("outcome") == "fp")
    assert wrong.count(f"{PREDICTED}.detections") == outcomes.count("fp")
    kinds = dataset.get_field_schema(flat=True)
    assert isinstance(kinds[f"{PREDICTED}.detections.rank"], fo.IntField)
    assert isinstance(kinds[f"{PREDICTED}.detections.outcome"], fo.StringField)
    assert isinstance(kinds[f"{PREDICTED}.detections.outcome_iou"], fo.FloatField)


def test_another_evaluation_is_news_and_the_same_one_none(dataset, annotate):
    annotate("--eval-key", "eval")
    assert annotate("--eval-key", "eval")["num_committed"] == 0
    # Without the key nothing is known of it, and the rank is.
    assert annotate()["num_committed"] == len(COUNTS)
    assert {(copy.outcome, copy.outcome_iou) for _, copy, _ in explained(dataset)} == {(None, None)}
    assert all(copy.rank for _, copy, _ in explained(dataset))
    assert annotate()["num_committed"] == 0
    # One object of one picture is gone, so that another detection is none.
    annotate("--eval-key", "eval")
    sample = dataset.sort_by("n").first()
    sample.truth.detections = sample.truth.detections[1:]
    sample.save()
    dataset.delete_evaluation("eval")
    dataset.evaluate_detections("predictions", gt_field="truth", eval_key="eval")
    assert annotate("--eval-key", "eval")["num_committed"] == 1
    assert all(copy.outcome == label.eval for label, copy, _ in explained(dataset))


def test_what_is_no_evaluation_of_the_labels_is_refused(dataset, annotate):
    said = annotate("--eval-key", "evla", code=2).stderr
    assert "there is no evaluation `evla`" in said and "the evaluations are `eval`" in said
    dataset.clone_sample_field("predictions", "others")
    dataset.reload()
    said = annotate("--eval-key", "eval", field="others", code=2).stderr
    assert "about other detections than those of field `others`" in said and "it is about `predictions`, `truth`" in said, said
    dataset.delete_evaluations()
    assert "evaluate_detections" in annotate("--eval-key", "eval", code=2).stderr


def test_it_is_about_detections_alone(dataset, camflow, model, tmp_path):
    flags = ("annotate", "--dataset", dataset.name, "--model", model[0], "--target", "labels:predictions", "--class", "dog")
    said = camflow(*flags, "--out", tmp_path / "maps", "--eval-key", "eval", code=2).stderr
    assert "`eval-key` says what an evaluation found of each detection, or which classes are true: add `per-detection`" in said


def test_the_report_begins_with_false_positives_and_missed_objects(dataset, annotate, camflow, tmp_path):
    annotate("--eval-key", "eval")
    annotate("--eval-key", "eval", "--field", "truth_{layer}", field="truth")
    page, numbers, table = tmp_path / "report.html", tmp_path / "report.json", tmp_path / "report.csv"
    done = camflow("report", "--dataset", dataset.name, "--out", page, "--json", numbers, "--csv", table)
    results = dataset.load_evaluation_results("eval").metrics() if hasattr(dataset, "load_evaluation_results") else {}
    false_positives = [copy for label, copy, _ in explained(dataset) if label.eval == "fp"]
    missed = [copy for label, copy, _ in explained(dataset, "truth_2_detections", "truth") if label.eval == "fn"]
    [found] = json.loads(numbers.read_text())["detections"]
    assert (found["num_false_positives"], found["true_positives"]["count"]) == (len(false_positives), len(COUNTS))
    assert (found["num_missed"], found["detected"]["count"]) == (len(missed), len(COUNTS)), results
    [of_dogs] = found["false_positives"]
    assert of_dogs["class"] == "dog"
    assert of_dogs["mean_confidence"] == pytest.approx(np.mean([one.confidence for one in false_positives]))
    assert of_dogs["mean_energy_inside"] == pytest.approx(np.mean([one.energy_inside for one in false_positives]))
    surest = sorted(false_positives, key=lambda one: -one.confidence)
    assert [one["detection"] for one in found["most_confident"]] == [one.id for one in surest][: len(found["most_confident"])]
    total = len(false_positives) + len(COUNTS)
    assert f"The model is wrong in {len(false_positives)} of {total} detections" in done.stdout.splitlines()[0]
    html = page.read_text()
    assert html.index("Detections that are wrong") < html.index("All series")
    assert html.index("False positives") < html.index("Missed objects")
    rows = [row for row in csv.DictReader(table.open()) if row["field"] == PREDICTED]
    by_id = {copy.id: copy for _, copy, _ in explained(dataset)}
    assert len(rows) == len(by_id)
    for row in rows:
        copy = by_id[row["detection"]]
        assert (row["outcome"], int(row["rank"])) == (copy.outcome, copy.rank)
