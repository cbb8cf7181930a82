"""What the model predicts, stored beside its heatmaps (`--predictions`): against PyTorch, torchvision and transformers, in repeated
runs, and as FiftyOne reads it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import torch

os.environ["FIFTYONE_DO_NOT_TRACK"] = "true"
import fiftyone as fo

sys.path.insert(0, str(Path(__file__).resolve().parent))
import hugging_face_folders as folders
import tiny_classifier
import transformers
from archive_copies import copy_archive
from camflow import compute_heatmaps
from camflow.export import export, load_model
from small_detector import picture as detr_picture
from small_detector import tensor
from test_torchvision_detectors import CLASSES as TORCHVISION_CLASSES
from test_torchvision_detectors import FEW, made
from test_wrong import CLASSES, picture
from test_wrong import tensor as seen

MADE_BY = Path(__file__).with_name("test_torchvision_detectors.py")
COUNT = 8
FIELD = "predicted"


@pytest.fixture
def dataset(database, request, tmp_path):
    """Pictures with labels: of every fourth the model knows no class, and every fourth has none."""
    dataset = fo.Dataset(f"{request.node.name}-predictions", persistent=True)
    for n in range(COUNT):
        path = tmp_path / f"{n:03}.png"
        Image.fromarray(picture(n)).save(path)
        label = [*CLASSES[1:], "zebra", None][n % 4]
        dataset.add_sample(fo.Sample(str(path), n=n, ground_truth=fo.Classification(label=label) if label else None))
    yield dataset
    fo.delete_dataset(dataset.name)


@pytest.fixture
def annotate(camflow, classifier, tmp_path):
    def run(dataset, *flags, model=classifier, predictions=FIELD, code=0):
        arguments = ["annotate", "--dataset", dataset.name, "--model", model, "--out", tmp_path / "maps", "--device", "cpu"]
        done = camflow(*arguments, "--predictions", predictions, "--exact", "--format", "json", *flags, code=code)
        dataset.reload()
        return done

    return run


LABELS = ("--target", "labels:ground_truth", "--class", "dog", "--layers", "2")


def finished(done) -> dict:
    return next(event for event in done.events if event["event"] == "run_finished")


def samples(dataset) -> list:
    return list(dataset.sort_by("n"))


@pytest.fixture(scope="module")
def module():
    """A classifier that puts each of its classes first somewhere."""
    module = tiny_classifier.classifier()
    with torch.no_grad():
        logits = torch.cat([module(seen(n)) for n in range(COUNT)])
        module.head.weight /= logits.std(0)[:, None] / 3
        module.head.bias -= torch.cat([module(seen(n)) for n in range(COUNT)]).mean(0)
    return module


@pytest.fixture(scope="module")
def classifier(module, tmp_path_factory) -> Path:
    """It, as an archive."""
    folder = tmp_path_factory.mktemp("classifier")
    export(load_model(module), folder / "module.pt2")
    return copy_archive(folder / "module.pt2", folder / "classifier.pt2", lambda described: described.update(name="classifier"))


@pytest.fixture(scope="module")
def probabilities(module) -> np.ndarray:
    """[COUNT, 3], by PyTorch."""
    with torch.no_grad():
        found = torch.cat([module(seen(n)) for n in range(COUNT)]).softmax(1).numpy()
    assert set(found.argmax(1)) == {0, 1, 2}
    return found


def test_every_sample_has_what_the_model_predicts(dataset, annotate, probabilities):
    done = finished(annotate(dataset, *LABELS))
    # Heatmaps of what is labelled, predictions of everything.
    assert (done["num_predicted"], done["num_heatmaps"], done["num_committed"]) == (COUNT, COUNT // 4, COUNT)
    assert done["skipped"] == {}
    loaded = fo.load_dataset(dataset.name)
    assert isinstance(loaded.first()[FIELD], fo.Classification)
    for n, sample in enumerate(samples(loaded)):
        label = sample[FIELD]
        assert label.label == CLASSES[probabilities[n].argmax()]
        assert label.confidence == pytest.approx(float(probabilities[n].max()), abs=2e-5)
        assert (label.model, label.logits, label.tags) == ("classifier", None, [])
        assert (sample.dog_grad_layer_2 is not None) == (n % 4 == 0)
    schema = loaded.get_field_schema(flat=True)
    assert isinstance(schema[f"{FIELD}.confidence"], fo.FloatField) and isinstance(schema[f"{FIELD}.fingerprint"], fo.StringField)
    # As FiftyOne itself would declare it.
    sample = loaded.first()
    sample["by_hand"] = fo.Classification(label="dog")
    sample.save()
    wanted = {name: type(field) for name, field in fo.load_dataset(dataset.name).get_field_schema(flat=True).items()}
    assert {name.replace(FIELD, "by_hand") for name in wanted if name.startswith(f"{FIELD}.")} >= {
        name for name in wanted if name.startswith("by_hand.")
    }
    labelled = loaded.exists("ground_truth")
    labelled.evaluate_classifications(FIELD, gt_field="ground_truth", eval_key="ev")
    assert labelled.values("ev") == [s[FIELD].label == s.ground_truth.label for s in labelled]


def test_a_second_run_writes_nothing_and_a_changed_image_one(dataset, annotate, tmp_path):
    annotate(dataset, *LABELS)
    before = dataset.values(["id", "last_modified_at", f"{FIELD}.id"])
    again = finished(annotate(dataset, *LABELS))
    assert again["num_committed"] == again["num_predicted"] == 0
    assert again["skipped"] == {"up to date": COUNT // 4, "no label": COUNT // 4, "class not in label": COUNT // 2}
    assert dataset.values(["id", "last_modified_at", f"{FIELD}.id"]) == before
    # A run for other heatmaps has the same predictions.
    other = finished(annotate(dataset, *LABELS[:-2], "--layers", "1"))
    assert (other["num_heatmaps"], other["num_predicted"]) == (COUNT // 4, 0)
    # What people say of a prediction stays as long as that is the same; a tag stays for good.
    sample = samples(dataset)[3]
    sample[FIELD].label, sample[FIELD].tags = "checked", ["seen"]
    sample.save()
    assert finished(annotate(dataset, *LABELS))["num_predicted"] == 0
    sample.reload()
    assert sample[FIELD].label == "checked"
    label = sample[FIELD].id
    Image.fromarray(picture(99)).save(sample.filepath)
    changed = annotate(dataset, *LABELS, "--dry-run", "--explain-plan")
    assert next(e for e in changed.events if e["event"] == "dry_run_finished")["num_predicted"] == 1
    assert finished(annotate(dataset, *LABELS))["num_predicted"] == 1
    sample.reload()
    assert sample[FIELD].label in CLASSES and (sample[FIELD].id, sample[FIELD].tags) == (label, ["seen"])
    assert finished(annotate(dataset, *LABELS, "--overwrite"))["num_predicted"] == COUNT


@pytest.mark.parametrize("batch", ["1", "3", "16"])
def test_in_batches_of_any_size(dataset, annotate, probabilities, batch):
    annotate(dataset, *LABELS, "--batch-size", batch)
    assert [s[FIELD].confidence for s in samples(dataset)] == pytest.approx(probabilities.max(1).tolist(), abs=2e-5)


def test_all_targets_give_the_same_predictions(dataset, annotate):
    annotate(dataset, *LABELS)
    wanted = [(s[FIELD].label, s[FIELD].fingerprint) for s in samples(dataset)]
    targets = (["top"], ["predicted", "--class", "cat"], ["wrong:ground_truth"], ["labels:ground_truth"])
    for n, (target, *more) in enumerate(targets):
        annotate(dataset, "--target", target, *more, "--layers", "2", predictions=f"of_{n}")
        assert [(s[f"of_{n}"].label, s[f"of_{n}"].fingerprint) for s in samples(dataset)] == wanted, target


def test_predictions_of_another_model_need_a_word(dataset, annotate, camflow, tmp_path):
    annotate(dataset, *LABELS)
    module = tiny_classifier.classifier()
    with torch.no_grad():
        module.head.bias += torch.tensor([0.0, 0.0, 100.0])
    other = tmp_path / "other.pt2"
    export(load_model(module), tmp_path / "module.pt2")
    copy_archive(tmp_path / "module.pt2", other, lambda described: described.update(name="other"))
    fields = (*LABELS, "--field", "{class}_of_{model}_{layer}")
    said = annotate(dataset, *fields, model=other, code=2).stderr
    assert f"field `{FIELD}` holds {COUNT} samples' predictions of model `classifier`, this run's is `other`" in said
    assert "`--replace`" in said
    done = annotate(dataset, *fields, "--replace", model=other)
    assert finished(done)["num_predicted"] == COUNT and "predictions of dataset" in done.stdout
    assert {s[FIELD].label for s in samples(dataset)} == {"person"}
    assert dataset.distinct(f"{FIELD}.model") == ["other"]


def test_labels_of_others_are_never_replaced(dataset, annotate):
    before = dataset.values("ground_truth.label")
    for consent in ([], ["--replace"], ["--overwrite"]):
        said = annotate(dataset, "--target", "top", "--layers", "2", *consent, predictions="ground_truth", code=2).stderr
        assert "it exists already, with labels that camflow did not make" in said, said
    said = annotate(dataset, *LABELS, predictions="ground_truth", code=2).stderr
    assert "`--predictions ground_truth` and the label are the same field" in said
    assert "of type FloatField" in annotate(dataset, *LABELS, predictions="number", code=2).stderr if _number(dataset) else True
    said = annotate(dataset, *LABELS, predictions="dog_grad_layer_2", code=2).stderr
    assert "and a field of heatmaps are the same field" in said
    assert dataset.values("ground_truth.label") == before
    # Nor what somebody put into a field of predictions.
    annotate(dataset, *LABELS)
    sample = samples(dataset)[0]
    sample[FIELD] = fo.Classification(label="mine")
    sample.save()
    said = annotate(dataset, *LABELS, code=2).stderr
    assert f"field `{FIELD}` holds 1 samples' predictions that camflow did not make" in said
    sample.reload()
    assert sample[FIELD].label == "mine"
    assert finished(annotate(dataset, *LABELS, "--replace"))["num_predicted"] == 1
    # Predictions are no labels of the dataset, unless somebody names them.
    assert finished(annotate(dataset, "--layers", "2"))["num_read"] == COUNT


def _number(dataset) -> bool:
    dataset.add_sample_field("number", fo.FloatField)
    return True


def test_what_is_no_prediction_is_refused(dataset, annotate):
    said = annotate(dataset, *LABELS, "--slice-height", "32", code=2).stderr
    assert "each slice has predictions of its own" in said


def test_runs_remember_the_field_and_remove_takes_it_away(dataset, annotate, camflow):
    annotate(dataset, *LABELS)
    [key] = dataset.list_runs(method="camflow")
    config = dataset.get_run_info(key).config
    assert config.fields == ["dog_grad_layer_2", FIELD] and config.predictions == FIELD
    done = camflow("remove", "--dataset", dataset.name, key, "--apply", "--grace", "0")
    assert f"removed field `{FIELD}`: {COUNT} predictions" in done.stdout
    dataset.reload()
    assert FIELD not in dataset.get_field_schema() and "ground_truth" in dataset.get_field_schema()
    annotate(dataset, *LABELS)
    camflow("remove", "--dataset", dataset.name, "--fields", FIELD, "--apply")
    dataset.reload()
    assert FIELD not in dataset.get_field_schema() and "dog_grad_layer_2" in dataset.get_field_schema()


def test_from_python(dataset, classifier, tmp_path, monkeypatch, binary, probabilities):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    found = compute_heatmaps(dataset, str(classifier), target="top", out=tmp_path / "maps", predictions=FIELD, progress=False)
    assert found.num_annotated == COUNT
    assert [s[FIELD].label for s in samples(dataset)] == [CLASSES[n] for n in probabilities.argmax(1)]


@pytest.fixture(scope="module")
def detr(camflow, tmp_path_factory):
    """A DETR of transformers with its processor, and its archive."""
    folder = folders.save(folders.spread_detr, tmp_path_factory.mktemp("detr") / "detr")
    path = folder.parent / "detr.pt2"
    camflow("export", folder, "--out", path)
    return transformers.DetrForObjectDetection.from_pretrained(folder).eval(), path


@pytest.fixture
def pictures(database, request, tmp_path):
    """Makes datasets of images."""
    made = []

    def dataset(images):
        made.append(fo.Dataset(f"{request.node.name}-{len(made)}", persistent=True))
        for n, image in enumerate(images):
            path = tmp_path / f"{len(made)}-{n}.png"
            Image.fromarray(image).save(path)
            made[-1].add_sample(fo.Sample(str(path), n=n))
        return made[-1]

    yield dataset
    for one in made:
        fo.delete_dataset(one.name)


def relative(corners: np.ndarray, height: float, width: float) -> np.ndarray:
    """Left, top, width and height in fractions of an image, of corners in its pixels, cut off at its sides."""
    corners = np.clip(np.asarray(corners, float) / [width, height, width, height], 0, 1)
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def compare(label: fo.Detections, names, scores, boxes, apart: float) -> None:
    """Ours are those, the likeliest first."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    ours = label.detections
    assert len(ours) == len(order)
    assert [one.confidence for one in ours] == pytest.approx([float(scores[n]) for n in order], abs=1e-5)
    # Of equal ones the order is nobody's.
    left = [(names[n], boxes[n]) for n in order]
    for one in ours:
        distances = [np.abs(np.subtract(one.bounding_box, box)).max() if name == one.label else 1 for name, box in left]
        nearest = int(np.argmin(distances))
        assert distances[nearest] < apart, (one, distances)
        left.pop(nearest)


def test_detections_are_those_of_transformers(pictures, annotate, detr):
    detector, archive = detr
    dataset = pictures([detr_picture(n) for n in range(4)])
    done = finished(annotate(dataset, "--target", "predicted", "--class", "dog", model=archive))
    assert done["num_predicted"] == 4
    loaded = fo.load_dataset(dataset.name)
    count = 0
    for n, sample in enumerate(samples(loaded)):
        with torch.no_grad():
            found = detector(pixel_values=tensor(detr_picture(n)))
        chances = found.logits.softmax(-1)[0, :, :-1]
        scores, classes = chances.max(-1)
        kept = (scores >= 0.5).nonzero()[:, 0].tolist()
        corners = found.pred_boxes[0, kept].numpy()
        corners = np.concatenate([corners[:, :2] - corners[:, 2:] / 2, corners[:, :2] + corners[:, 2:] / 2], axis=1)
        names = [detector.config.id2label[int(classes[k])] for k in kept]
        compare(sample[FIELD], names, scores[kept].tolist(), relative(corners, 1, 1), 1e-5)
        count += len(kept)
        assert all(one.id and one.mask is None for one in sample[FIELD].detections)
    assert count > 4
    assert isinstance(loaded.get_field_schema(flat=True)[f"{FIELD}.detections.bounding_box"], fo.ListField)
    before = loaded.values("last_modified_at")
    assert finished(annotate(dataset, "--target", "predicted", "--class", "dog", model=archive))["num_predicted"] == 0
    assert dataset.values("last_modified_at") == before
    assert dataset.to_patches(FIELD).count() == count
    # Each means the prediction that it is, and has a heatmap of its own.
    per = ("--target", f"labels:{FIELD}", "--class", "all", "--per-detection")
    assert finished(annotate(dataset, *per, model=archive, predictions="again"))["num_heatmaps"] == count


def test_overlapping_detections_are_left_out_as_by_torchvision(pictures, annotate, archived):
    name = "fasterrcnn_mobilenet_v3_large_fpn"

    def load():
        return load_model(made(name, side=160, **FEW), classes=TORCHVISION_CLASSES)

    archive, said = archived(load, name, 160, sorted(FEW.items()), code=(MADE_BY,), size=(128, 160))
    assert said["detections"]["suppression"] == {"iou": 0.5, "most": 100}
    module = made(name, side=160, **FEW)
    module.roi_heads.score_thresh = 0.3
    # One as the network takes it, one that is resized and padded.
    images = [np.asarray(Image.fromarray(picture(n)).resize(size)) for n, size in enumerate([(192, 160), (130, 90)])]
    dataset = pictures(images)
    assert finished(annotate(dataset, "--target", "predicted", "--class", "dog", model=archive))["num_predicted"] == 2
    for image, sample, apart in zip(images, samples(dataset), (1e-4, 2e-2), strict=True):
        with torch.no_grad():
            (found,) = module([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255])
        assert len(found["scores"]) > 3
        names = [TORCHVISION_CLASSES[label] for label in found["labels"].tolist()]
        boxes = relative(found["boxes"].numpy(), *image.shape[:2])
        if apart < 1e-3:
            compare(sample[FIELD], names, found["scores"].tolist(), boxes, apart)
            continue
        # Resized samples are rounded, so that the last ones may differ.
        best = found["scores"].argmax()
        first = sample[FIELD].detections[0]
        assert first.confidence == pytest.approx(float(found["scores"][best]), abs=0.05)
        assert abs(len(sample[FIELD].detections) - len(names)) <= 0.2 * len(names)


def test_archives_that_do_not_say_what_is_left_out_are_refused(pictures, annotate, detr, tmp_path):
    _, archive = detr
    earlier = tmp_path / "earlier.pt2"
    copy_archive(archive, earlier, lambda described: described["detections"].pop("suppression"))
    dataset = pictures([detr_picture(0)])
    said = annotate(dataset, "--target", "predicted", "--class", "dog", model=earlier, code=2).stderr
    assert "does not say which of its overlapping detections are left out" in said and "export it again" in said


def test_masks_are_those_of_pytorch(tiny_dataset, annotate, tiny_model, tmp_path):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "lab"))
    import growth

    module = growth.tiny()
    dataset = tiny_dataset(3)
    flags = ("--target", "labels:ground_truth", "--class", "never", "--layers", "1")
    done = finished(annotate(dataset, *flags, model=tiny_model))
    assert (done["num_predicted"], done["num_heatmaps"]) == (3, 0), "no mask has the class, and every image has a prediction"
    loaded = fo.load_dataset(dataset.name)
    names = {int(value): name for value, name in module.camflow_metadata["classes"].items()}
    assert loaded.mask_targets[FIELD] == names
    for sample in samples(loaded):
        label = sample[FIELD]
        assert isinstance(label, fo.Segmentation) and label.mask is None
        image = Image.open(sample.filepath).resize((32, 32), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            wanted = module((pixels - 0.5) / 0.25).argmax(1)[0].numpy()
        mask = label.get_mask()
        height, width = 30, 40
        assert mask.shape == (height, width) and mask.dtype == np.uint8
        rows = ((np.arange(height) + 0.5) * wanted.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * wanted.shape[1] / width).astype(int)
        assert (mask == wanted[np.ix_(rows, columns)]).mean() > 0.99
    results = loaded.evaluate_segmentations(FIELD, gt_field="ground_truth", mask_targets=names)
    assert set(results.classes) == set(names.values())
    # A file that is gone is made again, and nothing else.
    assert finished(annotate(dataset, *flags, model=tiny_model))["num_committed"] == 0
    Path(samples(dataset)[1][FIELD].mask_path).unlink()
    assert finished(annotate(dataset, *flags, model=tiny_model))["num_predicted"] == 1
    assert samples(dataset)[1][FIELD].get_mask().shape == (30, 40)
    # Names that people gave to the values are theirs.
    dataset.mask_targets[FIELD] = {0: "sky"}
    dataset.save()
    said = annotate(dataset, *flags, model=tiny_model, code=2).stderr
    assert "there are other classes than those of model" in said and "del dataset.mask_targets" in said


def test_a_damaged_mask_is_found_and_made_again(tiny_dataset, annotate, tiny_model, camflow):
    dataset = tiny_dataset(2)
    flags = ("--target", "labels:ground_truth", "--class", "light", "--layers", "1")
    annotate(dataset, *flags, model=tiny_model)
    path = Path(samples(dataset)[0][FIELD].mask_path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    said = camflow("check", "--dataset", dataset.name, "--read-data", code=1).stdout
    assert "2 heatmaps and 2 masks with 6 files looked at" in said and f"field `{FIELD}`: `{path}`" in said
    assert "the next `camflow annotate` of the same job makes the damaged ones again" in said
    assert finished(annotate(dataset, *flags, model=tiny_model))["num_predicted"] == 1
    assert path.read_bytes() == whole
    assert "0 damaged" in camflow("check", "--dataset", dataset.name, "--read-data").stdout


def test_masks_survive_the_clean_up(tiny_dataset, annotate, tiny_model, camflow, tmp_path):
    dataset = tiny_dataset(2)
    flags = ("--target", "labels:ground_truth", "--class", "light", "--layers", "1", "--grace", "0")
    annotate(dataset, *flags, model=tiny_model)
    before = [sample[FIELD].mask_path for sample in samples(dataset)]
    camflow("clean", "--dataset", dataset.name, "--out", tmp_path / "maps", "--grace", "0", "--apply")
    assert all(Path(path).is_file() for path in before)
    Image.fromarray(np.random.default_rng(99).integers(0, 255, (30, 40, 3), np.uint8)).save(samples(dataset)[0].filepath)
    annotate(dataset, *flags, model=tiny_model)
    after = [sample[FIELD].mask_path for sample in samples(dataset)]
    assert after[0] != before[0] and after[1] == before[1]
    assert Path(after[0]).is_file() and not Path(before[0]).exists(), "what was replaced is removed after its grace period"
    camflow("remove", "--dataset", dataset.name, "--fields", FIELD, "--out", tmp_path / "maps", "--apply", "--grace", "0")
    dataset.reload()
    assert FIELD not in dataset.get_field_schema() and FIELD not in dataset.mask_targets
    assert not Path(after[1]).exists()
