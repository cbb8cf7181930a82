"""`--counterfactuals` beside PyTorch: the same images with the same pixels replaced by NumPy, SciPy and pytorch_grad_cam, through the same
weights; and a model with a shortcut that only such images show."""

from __future__ import annotations

import csv
import json
import runpy
from pathlib import Path

import camflow as api
import fiftyone as fo
import hugging_face_folders as folders
import numpy as np
import pytest
from camflow import load
from PIL import Image
from playwright.sync_api import sync_playwright
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy import ndimage
from scipy.stats import binomtest
from small_detector import apart, corners, iou, picture, tensor
from test_measures import crop, resized

import torch

HERE = Path(__file__).parent
MODELS = HERE / "small_inputs.py"
SHORTCUT = HERE / "shortcut_classifier.py"
SIDE = 64
PERSON = 15
ASKED = ("confidence_without_object", "confidence_without_background", "confidence_without_attended")
ALL = ("confidence", *ASKED, "context_reliance")
REPLACEMENTS = ("blur", "mean", "impute")
MEAN, DEVIATION = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def models():
    """The models of MODELS, by name."""
    return runpy.run_path(str(MODELS))


@pytest.fixture
def people(quickstart, tmp_path):
    """Small square pictures around people, with their masks."""
    dataset = fo.Dataset("counterfactuals", persistent=True, overwrite=True)
    for sample in fo.load_dataset(quickstart):
        mask = sample.ground_truth.get_mask() == PERSON
        image = Image.open(sample.filepath).convert("RGB")
        box = (0, 0, min(image.size), min(image.size))
        small = np.asarray(Image.fromarray(mask).crop(box).resize((SIDE, SIDE)))
        if len(dataset) == 4 or not 40 < small.sum() < SIDE**2 * 0.7:
            continue
        path = tmp_path / f"{len(dataset)}.png"
        image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR).save(path)
        mask = np.where(small, PERSON, 0).astype(np.uint8)
        dataset.add_sample(fo.Sample(str(path), ground_truth=fo.Segmentation(mask=mask)))
    dataset.default_mask_targets = {0: "background", PERSON: "person"}
    assert len(dataset) == 4
    yield dataset
    dataset.delete()


@pytest.fixture
def annotate(camflow, tmp_path):
    def run(dataset, model, *flags, code=0, classes=("--class", "person")):
        arguments = (
            "annotate",
            "--dataset",
            dataset.name,
            "--model",
            model,
            *classes,
            "--device",
            "cpu",
            "--exact",
            "--npy",
            "f32",
        )
        done = camflow(*arguments, "--out", tmp_path / "maps", *flags, code=code)
        dataset.reload()
        return done

    return run


@pytest.fixture
def people_model(export):
    return lambda name: export(f"{MODELS}:{name}", inputs=(MODELS,))


def pixels(sample) -> np.ndarray:
    """The model's input, float32 `[3, H, W]`, of a picture that goes in as it is."""
    return ((np.asarray(Image.open(sample.filepath), np.float32) / 255 - MEAN) / DEVIATION).transpose(2, 0, 1)


def replaced(image: np.ndarray, mask: np.ndarray, by: str) -> np.ndarray:
    """The image `[3, H, W]` with the pixels of the mask replaced."""
    if by == "blur":
        sigma = 10 * min(mask.shape) / 224
        new = ndimage.gaussian_filter(image, (0, sigma, sigma), radius=round(3 * sigma), mode="nearest")
    elif by == "mean":
        new = np.broadcast_to(image[:, ~mask].mean(1)[:, None, None], image.shape)
    else:
        # Its mask is 1 where pixels stay.
        new = NoisyLinearImputer(noise=0)(torch.from_numpy(image), torch.from_numpy(~mask).float()).numpy()
    return np.where(mask, new, image).astype(np.float32)


def region(heatmap: np.ndarray, background: np.ndarray, count: int) -> np.ndarray:
    """The `count` most attended pixels of the background, among those with attention; of equal ones the first, row by row."""
    values = np.where(background & (heatmap > 0), heatmap, -1).ravel()
    chosen = np.argsort(-values, kind="stable")[:count]
    return (np.isin(np.arange(values.size), chosen) & (values > 0)).reshape(heatmap.shape)


def expected(ask, image: np.ndarray, mask: np.ndarray, heatmap: np.ndarray, by: str) -> dict[str, float]:
    """What camflow should have found; `ask` is the confidence in an image."""
    attended = region(heatmap, ~mask, min(mask.sum(), (~mask).sum()))
    found = {
        "confidence": ask(image),
        "confidence_without_object": ask(replaced(image, mask, by)),
        "confidence_without_background": ask(replaced(image, ~mask, by)),
        "confidence_without_attended": ask(replaced(image, attended, by)) if attended.any() else None,
    }
    costs = [max(0.0, found["confidence"] - found[name]) for name in ASKED[:2]]
    found["context_reliance"] = costs[1] / sum(costs) if sum(costs) >= 0.01 else None
    return found


def compare(label, wanted: dict[str, float | None], by: str) -> None:
    # ROAD's system is solved to a residual.
    tolerance = {"abs": 5e-4} if by == "impute" else {"rel": 1e-4, "abs": 1e-5}
    for name, number in wanted.items():
        if name == "context_reliance":
            # A quotient of small numbers.
            tolerance = {"abs": 0.02 if by == "impute" else 2e-3}
        assert label[name] == (number if number is None else pytest.approx(number, **tolerance)), (name, by)


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_of_a_segmentation_network(people, annotate, people_model, models, by):
    annotate(people, people_model("segmenter"), "--layers", "1,4", "--field", "heat_{layer}", "--counterfactuals", by)
    network, reliances = models["segmenter"](), []
    for sample in people:
        mask = sample.ground_truth.mask == PERSON

        def ask(image, mask=mask):
            with torch.no_grad():
                output = network(torch.from_numpy(image)[None])["out"]
            # The pixels that are asked about stay the same.
            return float(torch.softmax(output, 1)[0, PERSON][torch.from_numpy(mask)].mean())

        for label in (sample.heat_1, sample.heat_4):
            compare(label, expected(ask, pixels(sample), mask, load(label), by), by)
        # Neither depends on the layer.
        assert [sample.heat_1[name] for name in ASKED[:2]] == [sample.heat_4[name] for name in ASKED[:2]]
        reliances.append(sample.heat_4.context_reliance)
    assert all(reliance < 0.4 for reliance in reliances if reliance is not None), "it looks at the people"
    assert np.ptp(people.values("heat_4.confidence_without_attended")) > 0.01


@pytest.mark.parametrize("by", REPLACEMENTS)
def test_of_a_classifier(people, annotate, people_model, models, by):
    model = people_model("classifier")
    annotate(people, model, "--method", "layercam", "--layers", "1", "--field", "heat_{layer}", "--counterfactuals", by)
    network = models["classifier"]()

    def ask(image):
        with torch.no_grad():
            return float(torch.softmax(network(torch.from_numpy(image)[None]), 1)[0, 1])

    for sample in people:
        mask = sample.ground_truth.mask == PERSON
        compare(sample.heat_1, expected(ask, pixels(sample), mask, load(sample.heat_1), by), by)


def test_what_a_crop_leaves_out_is_neither_object_nor_background(quickstart, clone, annotate, classifier, classifier_file):
    source = fo.load_dataset(quickstart)
    dataset = clone(source.select([s.id for s in source if (s.ground_truth.mask == PERSON).any()][:3]))
    flags = ("--layers", "1", "--target", "labels:ground_truth", "--field", "cam", "--counterfactuals", "mean")
    annotate(dataset, classifier, *flags)
    network, compared = runpy.run_path(str(classifier_file))["classifier"](), 0
    for sample in dataset.exists("cam"):
        seen, top, left = crop(sample)
        image = Image.open(sample.filepath).convert("RGB").resize(seen.shape[::-1], Image.Resampling.BILINEAR)
        window = np.s_[top : top + 64, left : left + 64]
        image = (np.asarray(image, np.float32)[window] / 255).transpose(2, 0, 1)
        mask = resized(sample.ground_truth.mask == PERSON, seen.shape)[window]

        def ask(image):
            with torch.no_grad():
                return float(torch.softmax(network(torch.from_numpy(np.ascontiguousarray(image))[None]), 1)[0, 2])

        wanted = expected(ask, image, mask, load(sample.cam)[window], "mean")
        for name, number in wanted.items():
            # Pillow rounds a resized image to whole levels.
            assert sample.cam[name] == pytest.approx(number, abs=2e-3) or name == "context_reliance", name
            compared += 1
    assert compared


def test_of_the_predictions_that_a_detectors_boxes_mean(database, camflow, tmp_path):
    """The object is the boxes, or the instance's own pixels, and the same predictions are asked about."""
    folder = folders.save(folders.spread_detr, tmp_path / "detr")
    camflow("export", folder, "--out", tmp_path / "detr.pt2")
    import transformers

    detector = transformers.DetrForObjectDetection.from_pretrained(folder).eval()
    boxes = apart(detector, picture(0), 1, 2)
    Image.fromarray(picture(0)).save(tmp_path / "0.png")
    dataset = fo.Dataset("counterfactual-detections", persistent=True, overwrite=True)
    detections = [fo.Detection(label="dog", bounding_box=box.tolist()) for box in boxes]
    dataset.add_sample(fo.Sample(str(tmp_path / "0.png"), truth=fo.Detections(detections=detections)))
    common = (
        "annotate",
        "--dataset",
        dataset.name,
        "--model",
        tmp_path / "detr.pt2",
        "--class",
        "dog",
        "--target",
        "labels:truth",
    )
    asked = ("--layers", "2", "--counterfactuals", "mean", "--out", tmp_path / "maps", "--device", "cpu", "--exact")
    asked += ("--npy", "f32")
    try:
        camflow(*common, *asked, "--field", "cam")
        camflow(*common, *asked, "--field", "each", "--per-detection")
        dataset.reload()
        sample = dataset.first()
        each = sample.each_detections.detections
        for label, chosen in [(sample.cam, boxes), *zip(each, boxes[:, None], strict=True)]:
            height, width = picture(0).shape[:2]
            mask = np.zeros((height, width), bool)
            for left, top, across, down in chosen:
                mask[int(top * height) : int((top + down) * height), int(left * width) : int((left + across) * width)] = True
            queries = queries_of(detector, picture(0), chosen)

            def ask(image, queries=queries):
                with torch.no_grad():
                    logits = detector(pixel_values=torch.from_numpy(image)[None]).logits[0]
                return float(logits.softmax(-1)[queries, 1].mean())

            compare(label, expected(ask, tensor(picture(0))[0].numpy(), mask, load(label), "mean"), "mean")
    finally:
        dataset.delete()


def queries_of(detector, image, boxes) -> list[int]:
    """The queries that these boxes mean: each that with the highest product of overlap and probability."""
    with torch.no_grad():
        found = detector(pixel_values=tensor(image))
    predicted, chances = corners(found.pred_boxes)[0].numpy(), found.logits.softmax(-1)[0, :, 1].numpy()
    overlaps = [np.array([iou(np.array([*box[:2], *(box[:2] + box[2:])]), one) for one in predicted]) for box in boxes]
    return sorted({int(np.where(one >= 0.5, one * chances, -1).argmax()) for one in overlaps})


# ------------------------------------------------------------------------------------------------- what is asked, and when


def test_a_batch_gives_what_each_alone_gives_and_a_second_run_nothing(people, annotate, people_model):
    model = people_model("segmenter")
    flags = ("--layers", "1,4", "--method", "gradcam,layercam", "--field", "{method}_{layer}", "--format", "json")
    fields = ("gradcam_1", "gradcam_4", "layercam_1", "layercam_4")

    def values():
        return np.array(people.values([f"{field}.{name}" for field in fields for name in ALL]), float)

    def committed(*more):
        done = annotate(people, model, *flags, *more)
        return next(event["num_committed"] for event in done.events if event["event"] == "run_finished")

    assert committed() == 4
    before = people.values("gradcam_1.fingerprint")
    assert people.values("gradcam_1.confidence_without_object") == [None] * 4 and committed() == 0
    asked = ("--counterfactuals", "impute")
    assert committed(*asked, "--batch-size", 1, "--cam-batch-size", 1) == 4 and committed(*asked) == 0
    alone = values()
    assert not np.isnan(alone).all(1).any()
    assert committed(*asked, "--batch-size", 4, "--cam-batch-size", 7, "--overwrite") == 4
    assert np.allclose(alone, values(), atol=1e-5, equal_nan=True)
    # Neither is another replacement the same, nor do sizes matter: what is asked is asked over the model's input.
    assert committed("--counterfactuals", "mean") == 4
    assert not np.allclose(alone, values(), atol=1e-3, equal_nan=True)
    # Without it heatmaps are what they were, and nothing stale stays.
    assert committed() == 4 and people.values("gradcam_1.fingerprint") == before
    assert all(value is None for name in (*ASKED, "context_reliance") for value in people.values(f"gradcam_1.{name}"))
    said = annotate(people, model, *flags, *asked, "--explain-plan")
    assert [event["reasons"] for event in said.events if event["event"] == "sample_stale"] == [["settings changed"]] * 4
    assert "measured otherwise" in said.stdout and "`--counterfactuals`" in said.stdout


@pytest.mark.parametrize("size", ["layer", "image"])
def test_whatever_is_stored_what_is_asked_is_the_same(people, annotate, people_model, size):
    flags = ("--layers", "4", "--field", "cam", "--counterfactuals", "blur")
    annotate(people, people_model("segmenter"), *flags, "--faithfulness")
    names = [f"cam.{name}" for name in (*ALL, "road")]
    before = np.array(people.values(names), float)
    annotate(people, people_model("segmenter"), *flags, "--size", size, "--replace")
    assert np.allclose(before[:-1], np.array(people.values(names[:-1]), float), atol=1e-4, equal_nan=True)
    assert not np.isnan(before[-1]).any() and people.values("cam.road") == [None] * 4


def test_what_is_not_defined_is_null(people, annotate, people_model):
    everywhere, nowhere, *_ = people
    everywhere.ground_truth = fo.Segmentation(mask=np.full((SIDE, SIDE), PERSON, np.uint8))
    everywhere.save()
    flags = ("--layers", "1", "--target", "labels:ground_truth", "--field", "cam", "--counterfactuals", "impute")
    annotate(people, people_model("classifier"), *flags)
    label = people[everywhere.id].cam
    assert label.confidence > 0 and [label[name] for name in (*ASKED, "context_reliance")] == [None] * 4
    assert people[nowhere.id].cam.confidence_without_object is not None


def test_it_is_refused_where_there_is_nothing_to_replace(people, annotate, people_model):
    people.set_values("label", [fo.Classification(label="person")] * 4)
    model = people_model("classifier")
    for flags, said in (
        (("--target", "predicted"), "its scores are of whole images"),
        (("--target", "labels:label"), "field `label`, of type Classification"),
        (("--target", "pixel=3,3"), "`--target pixel=X,Y` is one pixel"),
        (("--target", "wrong:label"), "`--target wrong` is about whole images"),
        (("--slice-height", "32"), "`counterfactuals` asks the model about the whole image"),
    ):
        network = people_model("segmenter") if "pixel" in flags[1] or "--slice-height" in flags else model
        classes = () if "wrong" in flags[1] else ("--class", "person")
        error = annotate(people, network, *flags, "--counterfactuals", "impute", code=2, classes=classes).stderr
        assert said in error and ("hint: " in error or "leave" in error), error
    error = annotate(people, model, "--counterfactuals", "inpaint", code=2).stderr
    assert "blur" in error and "impute" in error
    # A class that a label names and a segmentation network finds has an object.
    annotate(people, people_model("segmenter"), "--target", "labels:label", "--field", "cam", "--counterfactuals", "mean")
    assert people.exists("cam.confidence_without_object").count() > 0


# -------------------------------------------------------------------------------------------------- a shortcut, and the report


@pytest.fixture
def planes(database, request, tmp_path):
    """Twelve white planes before a blue sky over grey ground."""
    dataset = fo.Dataset(f"{request.node.name}-planes", persistent=True, overwrite=True)
    dataset.default_mask_targets = {1: "airplane"}
    for number in range(12):
        horizon = 30 + number
        image, mask = np.full((48, 64, 3), (110, 110, 100), np.uint8), np.zeros((48, 64), np.uint8)
        image[:horizon] = (90, 120, 220)
        image[8:16, 10 + number : 34 + number], mask[8:16, 10 + number : 34 + number] = (235, 235, 235), 1
        path = tmp_path / f"{number}.png"
        Image.fromarray(image).save(path)
        dataset.add_sample(fo.Sample(str(path), truth=fo.Segmentation(mask=mask)))
    yield dataset
    dataset.delete()


def test_a_shortcut_that_the_heatmap_does_not_show_is_found(planes, export, annotate, camflow, chromium, tmp_path):
    """The heatmaps of both models lie on the planes, and energy_ratio calls both fine; one of them goes by the sky."""
    for name in ("shortcut", "sound"):
        model = export(f"{SHORTCUT}:{name}", inputs=(SHORTCUT,))
        for by in REPLACEMENTS:
            flags = ("--target", "labels:truth", "--layers", "1", "--field", f"{name}_{by}", "--counterfactuals", by)
            annotate(planes, model, *flags, classes=("--class", "airplane"))
            assert min(planes.values(f"{name}_{by}.energy_ratio")) > 3, "the heatmap lies on the plane"
            reliances = planes.values(f"{name}_{by}.context_reliance")
            # A blurred sky is a sky all the same.
            if by != "blur":
                assert min(reliances) > 0.9 if name == "shortcut" else max(reliances) < 0.1, (name, by, reliances)
    files = {name: tmp_path / f"report.{name}" for name in ("html", "json", "csv")}
    fields = "shortcut_impute,sound_impute"
    said = camflow(
        *("report", "--dataset", planes.name, "--fields", fields, "--out", files["html"], "--json", files["json"]),
        *("--csv", files["csv"]),
    ).stdout
    assert said.count("the model needs the background more than the object") == 1 and "12 of 12 images" in said, said
    tables = {one["field"]: one for one in json.loads(files["json"].read_text())["counterfactuals"]}
    assert tables.keys() == {"shortcut_impute", "sound_impute"}
    for field, table in tables.items():
        columns = planes.values([f"{field}.{name}" for name in ALL])
        for name, column in zip(ALL[:-1], columns, strict=False):
            known = [value for value in column if value is not None]
            assert table[name] == (pytest.approx(np.mean(known)) if known else None), (field, name)
        costs = [max(0, table["confidence"] - table[name]) for name in ASKED[:2]]
        assert table["context_reliance"] == pytest.approx(costs[1] / sum(costs))
        more = sum(b < o for o, b in zip(columns[1], columns[2], strict=True))
        assert (table["num_heatmaps"], table["num_background_costs_more"]) == (12, more)
        assert table["p_value"] == pytest.approx(binomtest(more, more + table["num_object_costs_more"]).pvalue)
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 24
    for row in rows:
        label = planes[row["sample"]][row["field"]]
        for name in ALL:
            assert row[name] == ("" if label[name] is None else str(label[name])) or float(row[name]) == label[name]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(files["html"].as_uri())
        table = page.locator("table:has(th:text('context reliance'))")
        first, second = (table.locator("tbody tr").nth(row).inner_text() for row in (0, 1))
        assert "shortcut" in first and "sound" in second, "the one that leans on context comes first"
        page.get_by_text("Does it matter?").scroll_into_view_if_needed()
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        browser.close()


def test_a_heatmap_of_zeros_has_no_attended_region(planes, export, annotate):
    """White speaks against barns, and nothing else at the layer for them."""
    model = export(f"{SHORTCUT}:shortcut", inputs=(SHORTCUT,))
    flags = ("--target", "labels:truth", "--map", "airplane=barn", "--field", "cam", "--counterfactuals", "mean")
    annotate(planes, model, *flags, "--layers", "1", classes=("--class", "barn"))
    for sample in planes:
        assert not load(sample.cam).any() and sample.cam.entropy is None
        assert sample.cam.confidence_without_attended is None and sample.cam.confidence_without_object is not None


def test_from_python(planes, export, binary, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    model = export(f"{SHORTCUT}:shortcut", inputs=(SHORTCUT,))
    call = {"layers": 1, "out": tmp_path / "out", "progress": False, "counterfactuals": "mean"}
    result = api.compute_heatmaps(planes, model, "airplane", "truth", **call)
    planes.reload()
    [field] = result.fields
    assert min(planes.values(f"{field}.context_reliance")) > 0.9
    worst = planes.sort_by(f"{field}.context_reliance", reverse=True).first()
    assert worst[field].confidence_without_background < 0.2 and worst[field].confidence_without_object > 0.8
