"""How much of each heatmap lies on the classes of another label (`--attention-on`), beside numpy on the stored heatmaps and FiftyOne's
own masks; and the table that `camflow report` makes of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import camflow as api
import fiftyone as fo
import numpy as np
import pytest
from camflow import load
from fiftyone import ViewField as F
from PIL import Image
from playwright.sync_api import sync_playwright
from scipy.stats import binomtest
from test_measures import PERSON, crop, resized

FIELD = "light_grad_layer_1"


def shares(heatmap: np.ndarray, classes: dict[str, np.ndarray], seen: np.ndarray | None = None) -> dict[str | None, tuple]:
    """By class its share of the energy and of the area; `classes` are bool masks of any size, `None` is what has none."""
    seen = np.ones(heatmap.shape, bool) if seen is None else resized(seen, heatmap.shape)
    masks = {name: resized(mask, heatmap.shape) & seen for name, mask in classes.items()}
    masks[None] = seen & ~np.logical_or.reduce([*masks.values(), ~seen])
    heatmap = heatmap.astype(np.float64)
    energy = heatmap[seen].sum()
    # A heatmap of zeros lies nowhere.
    of_energy = {name: heatmap[mask].sum() / energy if energy else None for name, mask in masks.items()}
    found = {name: (of_energy[name], mask.sum() / seen.sum()) for name, mask in masks.items()}
    return {name: share for name, share in found.items() if share[1] > 0}


def compare(label: fo.Heatmap, classes: dict[str, np.ndarray], seen: np.ndarray | None = None) -> int:
    """Checks what a heatmap's label says; how many classes were compared."""
    wanted = shares(load(label), classes, seen)
    said = {one.label: (one.share, one.area) for one in label.attention}
    assert said.keys() == wanted.keys() and len(said) == len(label.attention)
    for name, numbers in wanted.items():
        for number, other in zip(said[name], numbers, strict=True):
            assert number == (other if other is None else pytest.approx(other, rel=1e-6, abs=1e-9)), name
    ordered = [one.share or 0 for one in label.attention if one.label is not None]
    assert ordered == sorted(ordered, reverse=True) and all(one.label is not None for one in label.attention[:-1])
    first = label.attention[0]
    assert label.attended_class == (first.label if first.share else None)
    return len(said)


def of_mask(mask: np.ndarray, targets: dict[int, str]) -> dict[str, np.ndarray]:
    return {targets[value]: mask == value for value in np.unique(mask)}


@pytest.fixture
def people(quickstart, clone):
    source = fo.load_dataset(quickstart)
    return clone(source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()][:3]))


@pytest.fixture
def annotate(camflow, tmp_path):
    def run(dataset, model, *flags, code=0, classes=("--class", "light"), **more):
        arguments = ("annotate", "--dataset", dataset.name, "--model", model, "--device", "cpu", *classes)
        done = camflow(*arguments, "--out", tmp_path / "maps", "--workers", 2, "--batch-size", 1, *flags, code=code, **more)
        dataset.reload()
        return done

    return run


def test_shares_are_those_of_the_masks(people, annotate, standin_model):
    """Of two layers, on the masks of another field than the target's, in documents and in files."""
    for field in ("ground_truth", "ground_truth_path"):
        flags = ("--layers", "3,4", "--target", "labels:resnet50_seg", "--attention-on", field)
        annotate(people, standin_model, *flags, classes=("--class", "person"))
        compared = 0
        for sample in people:
            classes = of_mask(sample["ground_truth"].mask, people.default_mask_targets)
            for name in ("person_grad_layer_3", "person_grad_layer_4"):
                compared += compare(sample[name], classes)
                assert sample[name].attention_on == field
        assert compared >= 12
    # What the target says of itself is the same number.
    annotate(
        people,
        standin_model,
        "--layers",
        4,
        "--target",
        "labels:resnet50_seg",
        "--attention-on",
        "resnet50_seg",
        classes=("--class", "person"),
    )
    for sample in people:
        label = sample.person_grad_layer_4
        [own] = [one for one in label.attention if one.label == "person"]
        assert (own.share, own.area) == pytest.approx((label.energy_inside, label.object_area), rel=1e-9)


@pytest.mark.parametrize("size", ["input", "image", "layer"])
def test_what_a_crop_leaves_out_counts_nowhere(people, annotate, classifier, size):
    flags = ("--layers", "1-2", "--target", "predicted", "--size", size, "--attention-on", "ground_truth")
    annotate(people, classifier, *flags, classes=("--class", "person,cat,dog"))
    compared = 0
    for sample in people:
        seen, top, left = crop(sample)
        classes = {
            name: resized(mask, seen.shape)
            for name, mask in of_mask(sample.ground_truth.mask, people.default_mask_targets).items()
        }
        if size == "layer":
            window = np.s_[top : top + 64, left : left + 64]
            classes, seen = {name: mask[window] for name, mask in classes.items()}, None
        for name in people.get_field_schema(fo.EmbeddedDocumentField, fo.Heatmap):
            if sample[name] is not None:
                compared += compare(sample[name], classes, seen)
    assert compared >= 12


def detection(label, box, **more) -> fo.Detection:
    return fo.Detection(label=label, bounding_box=box, **more)


# Names that are no keys of MongoDB's; overlapping boxes of one class and of two; an object without a class, an instance.
OBJECTS = (
    ("a.b", [0.0, 0.0, 0.5, 0.5]),
    ("a.b", [0.25, 0.25, 0.5, 0.5]),
    ("$sky", [0.25, 0.0, 0.75, 0.4]),
    (None, [0.8, 0.8, 0.2, 0.2]),
    ("Ñandú, grande", [0.6, 0.6, 0.3, 0.3]),
)


def drawn(detections: fo.Detections, height: int, width: int) -> dict[str, np.ndarray]:
    """The pixels of each class, as FiftyOne draws them."""
    found = {}
    for one in detections.detections:
        if one.label is not None:
            mask = one.to_segmentation(frame_size=(width, height), target=1).mask if one.mask is not None else None
            if mask is None:
                left, top, across, down = one.bounding_box
                mask = np.zeros((height, width), bool)
                mask[int(top * height) : int((top + down) * height), int(left * width) : int((left + across) * width)] = True
            found[one.label] = found.get(one.label, False) | (mask > 0)
    return found


def test_objects_of_a_class_count_once_and_names_are_any(tiny_dataset, tiny_model, annotate):
    dataset = tiny_dataset(3)
    instance = np.eye(6, dtype=bool)
    labels = [
        [detection(name, box, **({"mask": instance} if name == "$sky" else {})) for name, box in OBJECTS],
        [],
        None,
    ]
    dataset.set_values("objects", [one if one is None else fo.Detections(detections=one) for one in labels])
    done = annotate(dataset, tiny_model, "--layers", 1, "--target", "labels:ground_truth", "--attention-on", "objects")
    assert "1 of 3 samples have no label in field `objects`" in done.stderr
    full, empty, missing = (sample[FIELD] for sample in dataset)
    classes = drawn(dataset.first().objects, 30, 40)
    assert compare(full, classes) == 4, "three classes, and what has none"
    assert [(one.label, one.share, one.area) for one in empty.attention] == [(None, 1.0, 1.0)] and empty.attended_class is None
    assert missing.attention is None and missing.attention_on == "objects" and missing.attended_class is None
    assert missing.energy_inside is not None, "the heatmap is measured all the same"
    # What FiftyOne makes of it.
    assert dataset.count_values(f"{FIELD}.attention.label") == {"a.b": 1, "$sky": 1, "Ñandú, grande": 1, None: 2}
    on = F(f"{FIELD}.attention").filter(F("label") == "a.b").map(F("share")).sum()
    first = dataset.sort_by(on, reverse=True).first()
    assert first.id == dataset.first().id
    much = F(f"{FIELD}.attention").filter((F("label") == "a.b") & (F("share") > 0.01)).length() > 0
    assert dataset.match(much).values("id") == [dataset.first().id]
    assert dataset.mean(f"{FIELD}.attention.area") > 0 and f"{FIELD}.attention.share" in dataset.get_field_schema(flat=True)
    # A person's own changes are saved and read again.
    sample = dataset.first()
    sample.tags.append("seen")
    sample[FIELD].tags.append("odd")
    sample.save()
    dataset.reload()
    assert compare(dataset.first()[FIELD], classes) == 4
    again = annotate(dataset, tiny_model, "--layers", 1, "--target", "labels:ground_truth", "--attention-on", "objects")
    assert "0 annotated, up to date: 3" in again.stderr


def test_a_changed_label_gives_new_numbers_and_nothing_else_does(tiny_dataset, tiny_model, annotate, camflow):
    dataset = tiny_dataset(3)
    dataset.set_values("objects", [fo.Detections(detections=[detection("sky", [0, 0, 1, 0.5])]) for _ in dataset])
    plain = ("--layers", 1, "--target", "labels:ground_truth", "--format", "json")
    flags = (*plain, "--attention-on", "objects")

    def committed(*flags):
        events = annotate(dataset, tiny_model, *flags).events
        return next(event["num_committed"] for event in events if "num_committed" in event)

    def values(name):
        return dataset.values(f"{FIELD}.{name}")

    assert committed(*plain) == 3
    before = values("fingerprint")
    assert committed(*plain) == 0 and "attention" not in str(dataset.get_field_schema(flat=True).keys())
    # The flag adds to the label's part alone, and replaces nothing of another kind.
    assert committed(*flags) == 3
    measured = values("fingerprint")
    assert [one[:50] for one in before] == [one[:50] for one in measured] and before != measured
    assert committed(*flags) == 0 and values("fingerprint") == measured
    shares_before = values("attention.share")
    sample = dataset.first()
    sample.objects.detections[0].bounding_box = [0, 0, 1, 0.75]
    sample.save()
    why = annotate(dataset, tiny_model, *flags, "--explain-plan")
    assert [event["reasons"] for event in why.events if event["event"] == "sample_stale"] == [["label changed"]], why.stdout
    assert committed(*flags) == 1
    assert [a == b for a, b in zip(values("attention.share"), shares_before, strict=True)] == [False, True, True]
    for sample in dataset:
        compare(sample[FIELD], drawn(sample.objects, 30, 40))
    # Another field, whose classes a mask target renames.
    other = (*plain, "--attention-on", "ground_truth")
    assert committed(*other) == 3 and committed(*other) == 0
    assert {one for label in values("attention.label") for one in label} == {"background", "middle", "light"}
    dataset.default_mask_targets[1] = "in.between"
    dataset.save()
    assert committed(*other) == 3
    assert {one for label in values("attention.label") for one in label} == {"background", "in.between", "light"}
    # Without the flag it goes, and the heatmaps are what they were before.
    assert committed(*plain) == 3 and values("fingerprint") == before
    assert values("attention") == values("attended_class") == values("attention_on") == [None] * 3
    assert dataset.first()[FIELD].attention is None


def test_a_field_that_cannot_say_it_is_refused_before_the_first_sample(tiny_dataset, tiny_model, annotate):
    dataset = tiny_dataset(1, scene=lambda _: fo.Classification(label="day"))
    for field, said in (
        ("ground_thruth", "there is no field `ground_thruth`"),
        ("scene", "field `scene` is of type Classification, which does not say where classes are,"),
        ("filepath", "field `filepath` is of type StringField"),
    ):
        error = annotate(dataset, tiny_model, "--target", "labels:ground_truth", "--attention-on", field, code=2).stderr
        assert said in error and "`ground_truth` (Segmentation)" in error and "hint: " in error, error
    assert FIELD not in dataset.get_field_schema()


def test_a_broken_label_costs_its_sample_alone(tiny_dataset, tiny_model, annotate, tmp_path):
    dataset = tiny_dataset(3)
    Image.fromarray(np.full((30, 40), 2, np.uint8)).save(tmp_path / "mask.png")
    paths = [tmp_path / "mask.png", tmp_path / "nowhere.png", tmp_path / "noise.png"]
    Image.fromarray(np.random.default_rng(0).integers(0, 60000, (30, 60), np.uint16)).save(tmp_path / "noise.png")
    dataset.set_values("scene", [fo.Segmentation(mask_path=str(path)) for path in paths])
    done = annotate(dataset, tiny_model, "--target", "labels:ground_truth", "--layers", 1, "--attention-on", "scene", code=1)
    assert "field `scene` of `--attention-on`: cannot read" in done.stderr and "more than 1000 classes" in done.stderr, (
        done.stderr
    )
    assert [sample[FIELD] is not None for sample in dataset] == [True, False, False]
    assert dataset.first()[FIELD].attended_class == "light"
    (tmp_path / "nowhere.png").write_bytes((tmp_path / "mask.png").read_bytes())
    annotate(dataset, tiny_model, "--target", "labels:ground_truth", "--layers", 1, "--attention-on", "scene", code=1)
    assert dataset[1:2].first()[FIELD].attended_class == "light"


def test_masks_that_nobody_named_have_their_values(tiny_dataset, tiny_model, annotate):
    dataset = tiny_dataset(2)
    dataset.default_mask_targets = {}
    dataset.mask_targets = {"ground_truth": {0: "background", 1: "middle", 2: "light"}}
    colors = np.zeros((30, 40, 3), np.uint8)
    colors[:, 20:] = (255, 0, 16)
    numbers = np.zeros((30, 40), np.uint8)
    numbers[10:] = 7
    dataset.set_values("scene", [fo.Segmentation(mask=numbers), fo.Segmentation(mask=colors)])
    done = annotate(dataset, tiny_model, "--target", "labels:ground_truth", "--layers", 1, "--attention-on", "scene")
    assert "field `scene` of `--attention-on` has no mask targets" in done.stderr
    assert compare(dataset.first()[FIELD], {"7": numbers == 7}) == 2
    assert compare(dataset.last()[FIELD], {"#ff0010": colors.any(2)}) == 2


def test_from_python_a_view_shows_the_labels_that_count(tiny_dataset, tiny_model, binary, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    dataset = tiny_dataset(2)
    objects = [detection("sky", [0, 0, 1, 0.5]), detection("sea", [0, 0.5, 1, 0.5])]
    dataset.set_values("objects", [fo.Detections(detections=[one.copy() for one in objects]) for _ in dataset])
    view = dataset.filter_labels("objects", F("label") == "sky")
    call = {"layers": 1, "out": tmp_path / "out", "progress": False, "attention_on": "objects"}
    result = api.compute_heatmaps(view, tiny_model, "light", "ground_truth", **call)
    assert (result.num_annotated, result.fields) == (2, [FIELD])
    dataset.reload()
    for sample in dataset:
        assert compare(sample[FIELD], {"sky": drawn(sample.objects, 30, 40)["sky"]}) == 2, "the sea is not shown"


# ------------------------------------------------------------------------------------------------------------- the report


@pytest.fixture
def planted(database, request, tmp_path):
    """Twelve planes before a blue sky over grey ground: what is known of a model that sees blue is where it looks."""
    dataset = fo.Dataset(f"{request.node.name}-planted", persistent=True)
    dataset.mask_targets = {"scene": {1: "sky", 2: "airplane", 3: "ground"}}
    samples = []
    for number in range(12):
        horizon = 24 + number
        picture, mask = np.full((48, 64, 3), (120, 120, 100), np.uint8), np.full((48, 64), 3, np.uint8)
        picture[:horizon], mask[:horizon] = (90, 120, 220), 1
        picture[8:14, 10 + number : 30 + number], mask[8:14, 10 + number : 30 + number] = (230, 230, 230), 2
        # What nobody has labelled.
        picture[:2, -6:], mask[:2, -6:] = (255, 240, 40), 0
        path = tmp_path / f"{number}.png"
        Image.fromarray(picture).save(path)
        label = fo.Classification(label="airplane")
        samples.append(fo.Sample(str(path), scene=fo.Segmentation(mask=mask), label=label))
    dataset.add_samples(samples, progress=False)
    yield dataset
    dataset.delete()


def test_a_model_that_looks_at_the_sky_is_found_out(planted, export, annotate, camflow, chromium, tmp_path):
    model = export(
        f"{Path(__file__).with_name('blue_classifier.py')}:classifier", inputs=(Path(__file__).with_name("blue_classifier.py"),)
    )
    flags = ("--target", "labels:label", "--layers", 1, "--attention-on", "scene", "--field", "cam")
    annotate(planted, model, *flags, classes=())
    for sample in planted:
        mask = sample.scene.mask
        assert compare(sample.cam, {name: mask == value for value, name in ((1, "sky"), (2, "airplane"), (3, "ground"))}) == 4
        [sky] = [one for one in sample.cam.attention if one.label == "sky"]
        assert sky.share > 0.9 and sample.cam.attended_class == "sky", "it looks at the blue"
    files = {name: tmp_path / f"report.{name}" for name in ("html", "json", "csv")}
    said = camflow(
        *("report", "--dataset", planted.name, "--out", files["html"], "--json", files["json"], "--csv", files["csv"]),
    ).stdout
    assert "`airplane` at `layer1`: heatmaps lie" in said and "on `sky` (field `scene`)" in said, said
    # The table, from the labels that FiftyOne reads.
    [table] = json.loads(files["json"].read_text())["attention"]
    assert (table["on"], table["field"], table["class"], table["num_heatmaps"]) == ("scene", "cam", "airplane", 12)
    lists = planted.values(["cam.attention.label", "cam.attention.share", "cam.attention.area"])
    of_label = {}
    for names, energies, areas in zip(*lists, strict=True):
        for name, share, area in zip(names, energies, areas, strict=True):
            of_label.setdefault(name, []).append((share, area))
    assert {cell["label"] for cell in table["labels"]} == of_label.keys() == {"sky", "airplane", "ground", None}
    for cell in table["labels"]:
        energies, areas = np.array(of_label[cell["label"]]).T
        assert cell["mean_share"] == pytest.approx(energies.mean()) and cell["mean_area"] == pytest.approx(areas.mean())
        assert cell["ratio"] == pytest.approx(energies.mean() / areas.mean())
        above, below = int((energies > areas).sum()), int((energies < areas).sum())
        assert (cell["num_heatmaps"], cell["num_above"], cell["num_below"]) == (12, above, below)
        assert cell["p_value"] == pytest.approx(binomtest(above, above + below).pvalue)
    with files["csv"].open() as file:
        for row in csv.DictReader(file):
            label = planted[row["sample"]].cam
            assert row["attention_on"] == "scene"
            assert json.loads(row["attention"]) == [{"label": o.label, "share": o.share, "area": o.area} for o in label.attention]
    # What a person sees.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(files["html"].as_uri())
        heads = page.locator("table.attention th").all_inner_texts()
        assert heads[:3] == ["heatmaps of", "images", "sky"] and heads[-1] == "no class", heads
        cells = page.locator("table.attention tbody td").all_inner_texts()
        [sky] = [cell for cell in table["labels"] if cell["label"] == "sky"]
        assert cells[:2] == ["airplane", "12"]
        assert cells[2].split() == [f"{100 * sky['mean_share']:.0f}", "%", f"×{sky['ratio']:.1f}", "·", "12"]
        colours = page.locator("table.attention tbody td").evaluate_all(
            "cells => cells.map(cell => getComputedStyle(cell).backgroundColor)"
        )
        assert len(set(colours)) > 2, "more and less than the area have colours"
        assert page.locator("table.attention td.own").count() == 1
        browser.close()


def test_a_report_without_attention_has_no_table(tiny_dataset, tiny_model, annotate, camflow, tmp_path):
    dataset = tiny_dataset(2)
    annotate(dataset, tiny_model, "--target", "labels:ground_truth", "--layers", 1)
    camflow("report", "--dataset", dataset.name, "--out", tmp_path / "r.html", "--json", tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["attention"] == []
    assert 'table class="attention"' not in (tmp_path / "r.html").read_text()
