"""`camflow annotate --target wrong`: the samples that a classifier misclassifies, against PyTorch and pytorch_grad_cam, on a FiftyOne
dataset whose mistakes are known; what heatmaps say of predictions, and what the report says of both."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pytorch_grad_cam import AblationCAM, GradCAM, GradCAMPlusPlus, LayerCAM, ScoreCAM, ShapleyCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo
from fiftyone import ViewField as F

sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny_classifier
from camflow import load

CLASSES = ["cat", "dog", "person"]
PARTS = ["predicted", "true", "difference"]
FIELDS = [f"wrong_{part}_grad_layer_2" for part in PARTS]
COUNT = 24
#: Of these the labels name the class that the model puts second.
WRONG = [1, 4, 5, 9, 12, 13, 17, 20]
#: Unknown to the model, and without a label.
UNKNOWN, UNLABELLED = 22, 23


def picture(n: int) -> np.ndarray:
    """72 x 72: nothing is left to resize, so that both sides see the same pixels."""
    random = np.random.default_rng(n)
    coarse = random.integers(0, 255, (9, 9, 3), np.uint8)
    return np.kron(coarse, np.ones((8, 8, 1), np.uint8))


def tensor(n: int) -> torch.Tensor:
    """What the model sees, [1, 3, 64, 64]."""
    seen = picture(n)[4:68, 4:68].astype(np.float32) / 255
    return torch.from_numpy(seen.transpose(2, 0, 1).copy())[None]


@pytest.fixture(scope="module")
def module():
    return tiny_classifier.classifier()


@pytest.fixture(scope="module")
def logits(module) -> np.ndarray:
    """[COUNT, 3], by PyTorch."""
    with torch.no_grad():
        return torch.cat([module(tensor(n)) for n in range(COUNT)]).numpy()


@pytest.fixture
def dataset(database, logits, request, tmp_path):
    made = fo.Dataset(request.node.name, persistent=True)
    order = logits.argsort(axis=1)[:, ::-1]
    for n in range(COUNT):
        path = tmp_path / f"{n:03}.png"
        Image.fromarray(picture(n)).save(path)
        label = CLASSES[order[n, 1 if n in WRONG else 0]]
        label = {UNKNOWN: "zebra", UNLABELLED: None}.get(n, label)
        truth = fo.Classification(label=label) if label else None
        made.add_sample(fo.Sample(str(path), n=n, ground_truth=truth))
    yield made
    fo.delete_dataset(made.name)


@pytest.fixture
def annotate(camflow, classifier, tmp_path):
    def run(dataset, *flags, target="wrong", model=classifier, code=0):
        arguments = ["annotate", "--dataset", dataset.name, "--model", model, "--target", target, "--out", tmp_path / "maps"]
        done = camflow(*arguments, "--device", "cpu", "--exact", "--format", "json", "--layers", "2", *flags, code=code)
        dataset.reload()
        return done

    return run


def summary(done) -> dict:
    return next(event for event in done.events if event["event"] == "run_finished")


def samples(dataset) -> list:
    return list(dataset.sort_by("n"))


def test_each_mistake_has_the_predicted_class_the_true_one_and_their_difference(dataset, annotate, module, logits):
    done = summary(annotate(dataset))
    assert (done["num_committed"], done["num_heatmaps"]) == (len(WRONG), 3 * len(WRONG))
    assert done["skipped"] == {
        "classified correctly": COUNT - len(WRONG) - 2,
        "label is not a class of the model": 1,
        "no label": 1,
    }
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    apart = {part: 0.0 for part in PARTS}
    for n, sample in enumerate(samples(dataset)):
        labels = [sample[field] for field in FIELDS]
        if n not in WRONG:
            assert labels == [None, None, None], n
            continue
        predicted, true = int(logits[n].argmax()), CLASSES.index(sample.ground_truth.label)
        assert predicted != true
        scores = [logits[n, predicted], logits[n, true], logits[n, predicted] - logits[n, true]]
        explained = [predicted, true, predicted]
        for label, score, class_, contrast in zip(labels, scores, explained, [None, None, CLASSES[true]], strict=True):
            assert label.score == pytest.approx(float(score), abs=1e-5)
            assert (label.target_class, label.contrast_class) == (CLASSES[class_], contrast)
            assert label.confidence == pytest.approx(float(probabilities[n, class_]), abs=1e-6)
            assert (label.predicted_class, label.true_class, label.correct) == (CLASSES[predicted], CLASSES[true], False)
            assert label.predicted_confidence == pytest.approx(float(probabilities[n, predicted]), abs=1e-6)
        targets = [
            ClassifierOutputTarget(predicted),
            ClassifierOutputTarget(true),
            lambda output, p=predicted, t=true: output[p] - output[t],
        ]
        with GradCAM(model=module, target_layers=[module.layer2]) as cam:
            for part, label, target in zip(PARTS, labels, targets, strict=True):
                theirs = cam(input_tensor=tensor(n), targets=[target])[0]
                # The heatmap lies over the whole image; the model sees all but four pixels at each side.
                ours = load(label)[4:68, 4:68]
                apart[part] = max(apart[part], float(np.abs(ours - theirs).max()))
    print({part: f"{value:.1e}" for part, value in apart.items()})
    assert max(apart.values()) <= 1e-5
    # One map is not the other.
    first = samples(dataset)[WRONG[0]]
    maps = [load(first[field]) for field in FIELDS]
    assert all(np.abs(one - other).max() > 0.1 for i, one in enumerate(maps) for other in maps[:i])
    # As a user of FiftyOne filters.
    assert dataset.match(F(f"{FIELDS[0]}.correct") == False).count() == len(WRONG)  # noqa: E712
    assert dataset.match(F(f"{FIELDS[0]}.predicted_confidence") > 0).count() == len(WRONG)


def test_in_one_pass_over_batches_of_any_size(dataset, annotate):
    annotate(dataset, "--batch-size", "1")
    alone = {field: {s.id: load(s[field]) for s in dataset if s[field]} for field in FIELDS}
    assert summary(annotate(dataset, "--batch-size", "16", "--overwrite"))["num_committed"] == len(WRONG)
    for field, before in alone.items():
        together = {s.id: load(s[field]) for s in dataset if s[field]}
        assert together.keys() == before.keys()
        assert max(np.abs(together[i] - before[i]).max() for i in before) <= 1e-5


@pytest.mark.parametrize("method", [LayerCAM, ScoreCAM, AblationCAM, ShapleyCAM, XGradCAM, GradCAMPlusPlus])
def test_methods_explain_the_difference_as_pytorch_grad_cam_does(dataset, annotate, module, logits, method):
    name = {"GradCAMPlusPlus": "gradcam++"}.get(method.__name__, method.__name__.lower())
    assert summary(annotate(dataset, "--method", name, "--limit", "6"))["num_committed"] == 3
    apart = 0.0
    for n in WRONG[:3]:
        sample = samples(dataset)[n]
        predicted, true = int(logits[n].argmax()), CLASSES.index(sample.ground_truth.label)
        with method(model=module, target_layers=[module.layer2]) as cam:
            theirs = cam(input_tensor=tensor(n), targets=[lambda output, p=predicted, t=true: output[p] - output[t]])[0]
        ours = load(sample[f"wrong_difference_{name.replace('+', 'p')}_layer_2"])[4:68, 4:68]
        apart = max(apart, float(np.abs(ours - theirs).max()))
    print(f"{name}: {apart:.1e}")
    assert apart <= 1e-5


def test_an_evaluation_says_which_classes_are_true(dataset, annotate, logits):
    dataset.set_values("predictions", [fo.Classification(label=CLASSES[int(row.argmax())]) for row in logits])
    # Two fields could say what is true; the evaluation does.
    dataset.clone_sample_field("ground_truth", "corrected")
    dataset.evaluate_classifications("predictions", gt_field="ground_truth", eval_key="eval")
    said = annotate(dataset, code=2).stderr
    assert "there are 3 Classification fields" in said
    assert summary(annotate(dataset, "--eval-key", "eval"))["num_committed"] == len(WRONG)
    found = dataset.match(F(FIELDS[0]) != None)  # noqa: E711
    assert sorted(found.values("n")) == WRONG and not any(found.values("eval"))
    said = annotate(dataset, "--eval-key", "eval", target="wrong:corrected", code=2).stderr
    assert "the evaluation `eval` compares with field `ground_truth`, not with `corrected`" in said and "leave out either" in said
    said = annotate(dataset, "--eval-key", "evla", code=2).stderr
    assert "there is no evaluation `evla`" in said and "the evaluations are `eval`" in said
    dataset.delete_evaluations()
    assert "evaluate_classifications" in annotate(dataset, "--eval-key", "eval", code=2).stderr


def test_smoothing_keeps_what_the_plain_image_decided(dataset, annotate):
    assert summary(annotate(dataset, "--aug-smooth"))["num_heatmaps"] == 3 * len(WRONG)
    assert all(load(samples(dataset)[n][field]).max() > 0 for n in WRONG for field in FIELDS[:1])


def test_runs_are_incremental_and_what_has_become_right_loses_its_heatmaps(dataset, annotate, logits):
    annotate(dataset)
    before = {s.id: s[FIELDS[2]].map_path for s in dataset if s[FIELDS[2]]}
    again = summary(annotate(dataset))
    assert again["num_committed"] == 0 and again["skipped"]["up to date"] == len(WRONG)
    assert {s.id: s[FIELDS[2]].map_path for s in dataset if s[FIELDS[2]]} == before
    everything = samples(dataset)
    order = logits.argsort(axis=1)[:, ::-1]
    right, other, wrong = everything[WRONG[0]], everything[WRONG[1]], everything[0]
    right.ground_truth.label = CLASSES[order[WRONG[0], 0]]
    other.ground_truth.label = CLASSES[order[WRONG[1], 2]]
    wrong.ground_truth.label = CLASSES[order[0, 1]]
    unlabelled = everything[WRONG[2]]
    unlabelled.ground_truth = None
    for sample in (right, other, wrong, unlabelled):
        sample.save()
    changed = summary(annotate(dataset))
    assert (changed["num_heatmaps"], changed["num_withdrawn"]) == (6, 6)
    assert changed["skipped"]["up to date"] == len(WRONG) - 3
    for sample in (right, other, wrong, unlabelled):
        sample.reload()
    assert [right[field] for field in FIELDS] == [unlabelled[field] for field in FIELDS] == [None, None, None]
    assert [wrong[field].true_class for field in FIELDS] == [CLASSES[order[0, 1]]] * 3
    assert other[FIELDS[1]].target_class == other[FIELDS[2]].contrast_class == CLASSES[order[WRONG[1], 2]]
    # A dry run knows the labels, but not what the model predicts.
    plan = next(e for e in annotate(dataset, "--dry-run", "--overwrite").events if e["event"] == "dry_run_finished")
    assert plan["num_heatmaps"] == 3 * (COUNT - 3)


def test_labels_of_their_own_spelling_are_the_models_classes(dataset, annotate):
    for sample in dataset.match(F("ground_truth.label") == "person"):
        sample.ground_truth.label = "Person"
        sample.save()
    for sample in dataset.match(F("ground_truth.label") == "cat"):
        sample.ground_truth.label = "kitten"
        sample.save()
    done = summary(annotate(dataset, "--map", "kitten=cat"))
    assert done["num_committed"] == len(WRONG)
    assert all(s[FIELDS[0]].true_class in CLASSES for s in dataset if s[FIELDS[0]])


def test_every_heatmap_says_what_is_predicted_for_the_image(dataset, annotate, logits):
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    annotate(dataset, "--class", "dog", target="predicted")
    annotate(dataset, target="labels:ground_truth")
    for n, sample in enumerate(samples(dataset)):
        for field in ("dog_grad_layer_2", "ground_truth_grad_layer_2"):
            label = sample[field]
            if label is None:
                assert field != "dog_grad_layer_2" and n in (UNKNOWN, UNLABELLED)
                continue
            assert label.predicted_class == CLASSES[logits[n].argmax()]
            assert label.predicted_confidence == pytest.approx(float(probabilities[n].max()), abs=1e-6)
            assert label.contrast_class is None
        # Nothing says the true class where no label is asked for.
        assert (sample.dog_grad_layer_2.true_class, sample.dog_grad_layer_2.correct) == (None, None)
    wrong = dataset.match(F("ground_truth_grad_layer_2.correct") == False)  # noqa: E712
    assert sorted(wrong.values("n")) == WRONG
    assert dataset.match(F("ground_truth_grad_layer_2.correct") == True).count() == COUNT - len(WRONG) - 2  # noqa: E712
    # FiftyOne's own evaluation agrees.
    for n, sample in enumerate(samples(dataset)):
        sample["predictions"] = fo.Classification(label=CLASSES[logits[n].argmax()])
        sample.save()
    known = dataset.match(F("ground_truth.label").is_in(CLASSES))
    known.evaluate_classifications("predictions", gt_field="ground_truth", eval_key="ev")
    assert known.values("ev") == known.values("ground_truth_grad_layer_2.correct")


def test_what_cannot_be_meant_is_refused_with_a_way_out(dataset, annotate, standin_model):
    def refused(*flags, **more) -> str:
        return annotate(dataset, *flags, code=2, **more).stderr

    assert "takes no `--class dog`" in refused("--class", "dog")
    assert "`finercam` compares a class with the three" in refused("--method", "finercam")
    assert "gives a class for each pixel" in refused(model=standin_model)
    assert "`target = wrong` is about what is predicted for whole images" in refused("--slice-height", "64")
    dataset.add_sample_field("other", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classification)
    text = refused()
    assert "there are 2 Classification fields" in text and "`--target wrong:FIELD`: `ground_truth`, `other`" in text
    dataset.add_sample_field("several", fo.EmbeddedDocumentField, embedded_doc_type=fo.Classifications)
    assert "of type Classifications" in refused(target="wrong:several")
    assert summary(annotate(dataset, target="wrong:ground_truth"))["num_committed"] == len(WRONG)


def test_the_report_begins_with_mistakes(dataset, annotate, camflow, logits, tmp_path):
    annotate(dataset, target="labels:ground_truth")
    annotate(dataset)
    page, numbers, table = tmp_path / "report.html", tmp_path / "report.json", tmp_path / "report.csv"
    done = camflow("report", "--dataset", dataset.name, "--out", page, "--json", numbers, "--csv", table)
    confidences = torch.from_numpy(logits).softmax(1).numpy().max(1)
    ranked = sorted(WRONG, key=lambda n: -confidences[n])
    ids = [s.id for s in samples(dataset)]
    first = done.stdout.splitlines()[0]
    judged = COUNT - 2
    assert f"puts another class first than the label says for {len(WRONG)} of {judged} samples" in first
    [mistakes] = json.loads(numbers.read_text())["mistakes"]
    assert (mistakes["num_judged"], mistakes["num_wrong"]) == (judged, len(WRONG))
    told = mistakes["most_confident"]
    assert [one["sample"] for one in told] == [ids[n] for n in ranked][: len(told)]
    assert [one["confidence"] for one in told] == pytest.approx([float(confidences[n]) for n in ranked][: len(told)], abs=1e-6)
    counts: dict[tuple[str, str], int] = {}
    for n in WRONG:
        pair = (samples(dataset)[n].ground_truth.label, CLASSES[logits[n].argmax()])
        counts[pair] = counts.get(pair, 0) + 1
    assert {(c["true_class"], c["predicted_class"]): c["count"] for c in mistakes["confusions"]} == counts
    html = page.read_text()
    assert html.index("Confident and wrong") < html.index("All series")
    shown = re.findall(r'<div class="mistake">(.*?)</div>', html, re.DOTALL)
    assert len(shown) == len(told)
    # The picture, and the heatmaps of the predicted class, of the true one and of the difference.
    assert all(one.count("<img") == 4 for one in shown), [one.count("<img") for one in shown]
    rows = list(csv.DictReader(table.open()))
    assert {row["correct"] for row in rows if row["field"] in FIELDS} == {"0"}
    assert {row["predicted_class"] for row in rows} <= set(CLASSES)
    # Of correct samples nothing is said where there are no mistakes.
    right = dataset.match(F("ground_truth_grad_layer_2.correct") == True)  # noqa: E712
    listed = tmp_path / "ids"
    listed.write_text("\n".join(right.values("id")))
    camflow("report", "--dataset", dataset.name, "--out", page, "--ids", listed)
    assert "Confident and wrong" not in page.read_text()
