"""`camflow compare` on real heatmaps: the numbers beside SciPy's, a model that looks elsewhere, what has no counterpart, gates, the page."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import camflow as api
import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import sync_playwright
from scipy import stats

PERSON = 15
LAYERS = (3, 4)
TWO = Path(__file__).with_name("two_lookers.py")
HEIGHT, WIDTH, COUNT = 48, 64, 20
A, B = "v1_airplane_1", "v2_airplane_1"
NUMBERS = ("energy_inside", "energy_ratio", "best_iou", "center_offset", "entropy")


def run(camflow, dataset, *arguments, folder, code=0):
    """Compares; what was said, and the numbers."""
    files = ("--out", folder / "c.html", "--json", folder / "c.json", "--csv", folder / "c.csv")
    done = camflow("compare", "--dataset", dataset.name, *files, *arguments, code=code)
    return done.stdout, json.loads((folder / "c.json").read_text())


def pairs(folder):
    with (folder / "c.csv").open() as file:
        return list(csv.DictReader(file))


def levels(path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    both = (one > 0) & (other > 0)
    one, other = (np.where(map_[both] > 1, map_[both], 0) for map_ in (one, other))
    return np.minimum(one / one.sum(), other / other.sum()).sum()


def holm(p: np.ndarray) -> np.ndarray:
    order = np.argsort(p, kind="stable")
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(np.minimum(p[order] * (len(p) - np.arange(len(p))), 1))
    return corrected


def check(said: dict, a: np.ndarray, b: np.ndarray) -> None:
    """A measure against SciPy."""
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    assert said["num"] == len(a)
    assert (said["mean_a"], said["mean_b"]) == pytest.approx((a.mean(), b.mean()))
    assert said["difference"] == pytest.approx((b - a).mean())
    assert (said["num_higher"], said["num_lower"]) == ((b > a).sum(), (b < a).sum())
    if said["test"] == "paired_t":
        result = stats.ttest_rel(b, a)
        assert said["p"] == pytest.approx(result.pvalue, rel=1e-6, abs=1e-12)
        assert said["interval"] == pytest.approx(list(result.confidence_interval(0.95)), rel=1e-6, abs=1e-9)
        assert said["effect"] == pytest.approx((b - a).mean() / (b - a).std(ddof=1), rel=1e-6)
    else:
        lower, higher = int((b < a).sum()), int((b > a).sum())
        wanted = stats.binomtest(lower, lower + higher).pvalue if lower + higher else 1.0
        assert said["p"] == pytest.approx(wanted)
        down, up = (lower + 0.5) / (len(a) + 2), (higher + 0.5) / (len(a) + 2)
        half = stats.norm.ppf(0.975) * np.sqrt((up + down - (up - down) ** 2) / (len(a) + 2))
        assert said["interval"] == pytest.approx([max(up - down - half, -1), min(up - down + half, 1)])


@pytest.fixture(scope="module")
def people(quickstart, camflow, standin_model, tmp_path_factory):
    """Twelve images with people, explained by two methods at two layers."""
    source = fo.load_dataset(quickstart)
    copy = source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()][:12]).clone("compared")
    camflow(
        *("annotate", "--dataset", copy.name, "--class", "person", "--layers", "3,4", "--method", "gradcam,eigencam"),
        *("--target", "labels:resnet50_seg", "--model", standin_model, "--device", "cpu", "--name", "people"),
        *("--out", tmp_path_factory.mktemp("maps")),
    )
    copy.reload()
    yield copy
    copy.delete()


def test_the_numbers_are_those_of_scipy(people, camflow, tmp_path):
    said, numbers = run(camflow, people, "person_grad_layer_*", "person_eigencam_layer_*", folder=tmp_path)
    assert (numbers["num_samples"], numbers["num_pairs"], len(numbers["series"])) == (12, 24, 2)
    assert set(numbers["unpaired"].values()) == {0} and "left out" not in said
    by_layer = {}
    for layer, series in zip(LAYERS, numbers["series"], strict=True):
        fields = [f"person_grad_layer_{layer}", f"person_eigencam_layer_{layer}"]
        assert [series[side]["field"] for side in "ab"] == fields and series["a"]["method"] == "gradcam"
        for name in (*NUMBERS, "pointing_hit"):
            a, b = (np.array(people.values(f"{field}.{name}"), float) for field in fields)
            check(series["measures"][name], a, b)
            by_layer.setdefault(name, []).append((a, b))
        maps = [[levels(path) for path in people.values(f"{field}.map_path")] for field in fields]
        ranks = [stats.spearmanr(one.ravel(), other.ravel()).statistic for one, other in zip(*maps, strict=True)]
        shared = [overlap(one, other) for one, other in zip(*maps, strict=True)]
        assert series["maps"]["num_read"] == 12
        assert series["maps"]["rank_correlation"]["mean"] == pytest.approx(np.mean(ranks), abs=1e-9)
        assert series["maps"]["overlap"]["mean"] == pytest.approx(np.mean(shared), abs=1e-9)
        rows = [row for row in pairs(tmp_path) if row["field_a"] == fields[0]]
        assert [row["sample"] for row in rows] == people.values("id")
        assert [float(row["overlap"]) for row in rows] == pytest.approx(shared)
        assert [float(row["rank_correlation_of_maps"]) for row in rows] == pytest.approx(ranks)
        assert [float(row["energy_inside_b"]) for row in rows] == people.values(f"{fields[1]}.energy_inside")
    # All together: each sample counts once, with the mean of its layers.
    for name in NUMBERS:
        check(numbers["measures"][name], *(np.mean([both[side] for both in by_layer[name]], axis=0) for side in (0, 1)))
    tests = [measure for series in numbers["series"] for measure in series["measures"].values()]
    wanted = holm(np.array([measure["p"] for measure in tests]))
    assert [measure["p_holm"] for measure in tests] == pytest.approx(wanted)
    # Ranked by what was asked.
    fell = numbers["fell"]
    difference = np.array([both[1] - both[0] for both in by_layer["energy_inside"]]).min(axis=0)
    assert [one["value"] for one in fell] == pytest.approx(sorted(difference[difference < 0])[: len(fell)])
    moved = numbers["moved"]
    assert [one["value"] for one in moved] == sorted(one["value"] for one in moved)


def test_the_mean_is_aligned_on_the_box_of_the_mask(people, camflow, tmp_path):
    """The share of the mean heatmap that lies on the box, with nothing but numpy."""
    _, numbers = run(camflow, people, "person_grad_layer_4", "person_eigencam_layer_4", folder=tmp_path)
    [series] = numbers["series"]
    assert numbers["object_field"] == "resnet50_seg" and series["around_objects"]["num_objects"] == 12
    for side, field in enumerate(("person_grad_layer_4", "person_eigencam_layer_4")):
        sums, counts = np.zeros((64, 64)), np.zeros((64, 64))
        for sample in people:
            rows, columns = np.where(sample.resnet50_seg.mask == PERSON)
            height, width = sample.resnet50_seg.mask.shape
            top, left = rows.min() / height, columns.min() / width
            bottom, right = (rows.max() + 1) / height, (columns.max() + 1) / width
            place = 2 * (np.arange(64) + 0.5) / 64 - 0.5
            y, x = top + place * (bottom - top), left + place * (right - left)
            heat = levels(sample[field].map_path)
            heat = np.where(heat > 1, heat, 0)
            inside = np.outer((y >= 0) & (y < 1), (x >= 0) & (x < 1))
            at_y = np.clip(y * heat.shape[0] - 0.5, 0, heat.shape[0] - 1)
            at_x = np.clip(x * heat.shape[1] - 0.5, 0, heat.shape[1] - 1)
            across = np.array([np.interp(at_x, np.arange(heat.shape[1]), row) for row in heat])
            sampled = np.array([np.interp(at_y, np.arange(heat.shape[0]), column) for column in across.T]).T
            sums += np.where(inside, sampled, 0)
            counts += inside
        mean = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        wanted = mean[16:48, 16:48].sum() / mean.sum()
        assert series["around_objects"]["share_on_box"][side] == pytest.approx(wanted, abs=1e-9)


@pytest.fixture(scope="module")
def planes(database, camflow, export, tmp_path_factory):
    """Red aeroplanes in blue skies, explained by a model that looks at them and by one that looks at the sky."""
    folder = tmp_path_factory.mktemp("planes")
    made = fo.Dataset("planes", persistent=True)
    rng = np.random.default_rng(1)
    for n in range(COUNT):
        image = rng.integers(0, 60, (HEIGHT, WIDTH, 3))
        image[..., 2] += 160
        height, width = rng.integers(10, 20, 2)
        top, left = rng.integers(0, HEIGHT - height), rng.integers(0, WIDTH - width)
        image[top : top + height, left : left + width] = rng.integers(0, 60, (height, width, 3)) + [180, 0, 0]
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{n:02}.png")
        box = [left / WIDTH, top / HEIGHT, width / WIDTH, height / HEIGHT]
        truth = fo.Detections(detections=[fo.Detection(label="airplane", bounding_box=[float(number) for number in box])])
        made.add_sample(fo.Sample(str(folder / f"{n:02}.png"), truth=truth, n=n, tags=["even"] if n % 2 == 0 else []))
    for version, function in (("v1", "on_planes"), ("v2", "on_the_sky")):
        camflow(
            *("annotate", "--dataset", made.name, "--class", "airplane", "--target", "labels:truth", "--device", "cpu"),
            *("--model", export(f"{TWO}:{function}", inputs=(TWO,)), "--layers", "1", "--name", version),
            *("--field", f"{version}_{{class}}_{{layer}}", "--out", folder / "maps"),
        )
    made.reload()
    yield made
    made.delete()


def test_a_model_that_looks_elsewhere_is_named_and_refused(planes, camflow, tmp_path):
    gates = ("--max-drop", "energy_inside=0.02", "--max-rise", "center_offset=0.9", "--max-drop", "airplane:pointing_hit=0.5")
    said, numbers = run(camflow, planes, "v1_*", "v2_*", *gates, folder=tmp_path, code=1)
    first = numbers["findings"][0]
    assert first["kind"] == "worse" and "`energy_inside` is lower in B" in first["text"] and "less at the object" in first["text"]
    assert f"lower in {COUNT} of {COUNT} pairs" in first["text"] and first["text"] in said
    assert "other parts of the image" in said
    drop, hit, rise = numbers["gates"]
    assert [gate["verdict"] for gate in numbers["gates"]] == ["crossed", "crossed", "kept"]
    assert [gate["fails"] for gate in numbers["gates"]] == [True, True, False]
    assert drop["text"] in said and "more than the 0.02 that are allowed" in drop["text"] and rise["text"] in said
    assert hit["class"] == "airplane" and "`pointing_hit` of `airplane` fell by 1.0000" in said
    inside = numbers["measures"]["energy_inside"]
    assert inside["mean_a"] > 0.9 and inside["mean_b"] < 0.1 and inside["is_clear"] and not inside["is_small"]
    hits = numbers["measures"]["pointing_hit"]
    assert hits["test"] == "mcnemar" and hits["p"] == pytest.approx(2 * 0.5**COUNT)
    # Around the box of each detection.
    on_box = numbers["series"][0]["around_objects"]
    assert on_box["num_objects"] == COUNT
    assert on_box["share_on_box"][0] > 0.9 and on_box["share_on_box"][1] < 0.2
    # The other way round nothing is lost.
    _, back = run(camflow, planes, "v2_*", "v1_*", "--max-drop", "energy_inside=0", folder=tmp_path)
    assert [gate["verdict"] for gate in back["gates"]] == ["kept"] and back["findings"][0]["kind"] == "better"
    # As runs.
    _, runs = run(camflow, planes, "camflow_v1", "camflow_v2", folder=tmp_path)
    assert runs["measures"] == numbers["measures"]


def test_too_few_samples_are_no_proof(planes, camflow, clone, tmp_path):
    copy = clone(planes.limit(3))
    values = copy.values(f"{A}.energy_inside")
    copy.set_values(f"{B}.energy_inside", [value + change for value, change in zip(values, (-0.4, 0.1, 0.02), strict=True)])
    gate = ("--max-drop", "energy_inside=0.05")
    said, numbers = run(camflow, copy, A, B, *gate, folder=tmp_path)
    assert numbers["gates"][0]["verdict"] == "undecided" and "does not tell whether a drop is within 0.05" in said
    run(camflow, copy, A, B, *gate, "--strict", folder=tmp_path, code=1)


@pytest.mark.parametrize(
    ("flags", "wrong"),
    [
        (("--max-drop", "energy_insid=0.1"), "no measure `energy_insid`"),
        (("--max-drop", "energy_inside"), "MEASURE=NUMBER"),
        (("--max-drop", "energy_inside=-1"), "from 0"),
        (("--max-drop", "road=0.1"), "no pair has `road`"),
        (("--max-drop", "plane:energy_inside=0.1"), "`airplane`"),
        (("--by", "energy"), "energy"),
        (("--strict",), "--max-drop"),
        (("--json", "c.html", "--out", "c.html"), "the same file"),
        (("--align-on", "nowhere"), "no field `nowhere`"),
        (("--view", "nowhere"), "no saved view `nowhere`"),
    ],
)
def test_what_cannot_be_meant_is_refused(planes, camflow, tmp_path, flags, wrong):
    refused = camflow("compare", "--dataset", planes.name, A, B, *flags, code=2, cwd=tmp_path).stderr
    assert wrong in refused, refused


@pytest.mark.parametrize(
    ("a", "b", "wrong"),
    [
        (A, "v3_airplane_1", f"the heatmap fields are `{A}`, `{B}`"),
        ("v1_*", "v3_*", "is named like `v3_*`"),
        (A, A, "the same heatmaps"),
        ("v1_*", "v1_*", "the same heatmaps"),
        ("camflow_v1", "camflow_v3", "the runs are `camflow_v1`, `camflow_v2`"),
        ("v1_*", "v*_airplane_1", "A has `v1_airplane_1`"),
    ],
)
def test_nothing_in_common_says_what_there_is(planes, camflow, tmp_path, a, b, wrong):
    refused = camflow("compare", "--dataset", planes.name, a, b, code=2, cwd=tmp_path).stderr
    assert wrong in refused and "hint: " in refused, refused
    assert not list(tmp_path.iterdir())


def test_what_has_no_counterpart_is_counted(planes, camflow, clone, tmp_path):
    copy = clone(planes)
    samples = list(copy)
    for sample in samples[:3]:
        sample[A] = None
        sample.save()
    samples[3][B] = None
    samples[4][B].target_class = "barn"
    Path(tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    samples[5][A].map_path = str(tmp_path / "gone.png")
    samples[6][B].map_path = str(tmp_path / "broken.png")
    for sample in samples[3:7]:
        sample.save()
    said, numbers = run(camflow, copy, A, B, folder=tmp_path)
    unpaired = numbers["unpaired"]
    assert (unpaired["only_b"], unpaired["only_a"], unpaired["other_class"]) == (3, 1, 1)
    assert numbers["num_pairs"] == COUNT - 5 and numbers["measures"]["energy_inside"]["num"] == COUNT - 5
    assert (numbers["maps"]["num_read"], numbers["maps"]["num_unreadable"]) == (COUNT - 7, 2)
    assert "3 heatmaps of B have none of A" in said and "1 pair explains another class" in said
    assert "2 pairs have a heatmap file that cannot be read" in said and "gone.png" in said and "broken.png" in said
    rows = {row["sample"]: row for row in pairs(tmp_path)}
    assert rows[samples[5].id]["overlap"] == "" != rows[samples[7].id]["overlap"]
    # Without files there is nothing to read.
    _, measures = run(camflow, copy, A, B, "--no-maps", folder=tmp_path)
    assert measures["measures"] == numbers["measures"] and measures["maps"]["num_read"] == 0
    # No pair at all.
    copy.set_field(A, None).save()
    refused = camflow("compare", "--dataset", copy.name, A, B, "--out", tmp_path / "none.html", code=2).stderr
    assert f"no sample of the selection has heatmaps of both `{A}` and `{B}`" in refused
    assert f"{COUNT - 1} heatmaps of B have none of A" in refused and not (tmp_path / "none.html").exists()


def test_maps_of_other_sizes_and_arrays_without_pictures_are_compared(planes, camflow, clone, tmp_path):
    copy = clone(planes.limit(6))
    for sample in copy:
        # Half the size, by area.
        heat = levels(sample[A].map_path).reshape(HEIGHT // 2, 2, WIDTH // 2, 2).mean((1, 3))
        path = tmp_path / f"{sample.id}.png"
        Image.fromarray(heat.astype(np.uint8)).save(path)
        sample[B].map_path, sample[A].map_path = str(path), None
        sample.save()
    _, numbers = run(camflow, copy, A, B, folder=tmp_path)
    assert numbers["maps"]["num_read"] == 6
    rows = np.arange(HEIGHT // 2) * 2
    columns = np.arange(WIDTH // 2) * 2
    for row, sample in zip(pairs(tmp_path), copy, strict=True):
        exact = np.floor(255 * api.load(planes[sample.id][A]) + 0.5).astype(int)
        of_a, of_b = np.maximum(exact, 1)[np.ix_(rows, columns)], levels(sample[B].map_path)
        assert float(row["overlap"]) == pytest.approx(overlap(of_a, of_b), abs=2e-3)
        assert float(row["rank_correlation_of_maps"]) == pytest.approx(
            stats.spearmanr(of_a.ravel(), of_b.ravel()).statistic, abs=2e-3
        )


def test_without_boxes_the_mean_is_of_the_image(planes, camflow, clone, tmp_path):
    copy = clone(planes)
    copy.delete_sample_field("truth")
    copy.reload()
    said, numbers = run(camflow, copy, A, B, folder=tmp_path)
    assert "no label field says where the objects are" in said and numbers["object_field"] is None
    assert numbers["series"][0]["around_objects"]["num_objects"] == 0 and numbers["maps"]["num_read"] == COUNT
    html = (tmp_path / "c.html").read_text()
    # Ranked by something that no heatmap has.
    said, numbers = run(camflow, copy, A, B, "--by", "road", "--save-view", "by overlap", folder=tmp_path)
    assert "no pair has `road`" in said and numbers["fell"] == numbers["rose"] == [] and len(numbers["moved"]) == 6
    copy.reload()
    assert copy.load_saved_view("by overlap").values("id")[:6] == [one["sample"] for one in numbers["moved"]]
    assert html.count('class="mean"') == 3 and f"{COUNT} images" in html and "% on the box" not in html


def test_what_a_classifier_gets_right_is_compared_by_the_images_that_differ(planes, camflow, clone, tmp_path):
    copy = clone(planes)
    right = np.arange(COUNT)[:, None] < [16, 9]
    right[17, 1] = True
    for field, column in ((A, 0), (B, 1)):
        copy.set_values(f"{field}.predicted_class", ["airplane" if yes else "barn" for yes in right[:, column]])
        copy.set_values(f"{field}.true_class", ["airplane"] * COUNT)
        copy.set_values(f"{field}.correct", right[:, column].tolist())
    _, numbers = run(camflow, copy, A, B, "--max-drop", "correct=0.05", "--by", "correct", folder=tmp_path, code=1)
    said = numbers["measures"]["correct"]
    check(said, right[:, 0].astype(float), right[:, 1].astype(float))
    assert (said["test"], said["num_lower"], said["num_higher"]) == ("mcnemar", 7, 1)
    # Every loss that is shown is one of them.
    lost = {sample for sample, (a, b) in zip(copy.values("id"), right, strict=True) if a and not b}
    assert {one["sample"] for one in numbers["fell"]} <= lost and len(numbers["fell"]) == 6


def test_a_clone_is_compared_with_what_it_was_made_from(planes, camflow, clone, tmp_path):
    """Last night's dataset: some of the same images, and one of them twice."""
    old = clone(planes.limit(15))
    duplicate = old.first().copy()
    old.add_sample(duplicate)
    old.set_values(f"{A}.energy_inside", [0.5] * len(old))
    said, numbers = run(camflow, planes, A, "--against-dataset", old.name, folder=tmp_path)
    assert (numbers["against_dataset"], numbers["num_pairs"]) == (old.name, 14)
    unpaired = numbers["unpaired"]
    assert (unpaired["samples_only_a"], unpaired["samples_several"], unpaired["samples_only_b"]) == (5, 1, 2)
    assert "5 samples of A have no heatmaps in the dataset of B" in said
    assert numbers["measures"]["energy_inside"]["mean_b"] == 0.5 and numbers["maps"]["num_identical"] == 14
    assert [row["sample"] for row in pairs(tmp_path)] == planes.values("id")[1:15]
    refused = camflow("compare", "--dataset", planes.name, A, B, "--against-dataset", "nowhere", code=2).stderr
    assert "nowhere" in refused and "hint: " in refused


def test_the_same_twice_and_of_chosen_samples(planes, camflow, clone, tmp_path):
    copy = clone(planes)
    _, first = run(camflow, copy, A, B, folder=tmp_path)
    _, second = run(camflow, copy, A, B, folder=tmp_path)
    assert {**first, "created": ""} == {**second, "created": ""}
    copy.save_view("some", copy.skip(3).limit(6))
    some = copy.load_saved_view("some").values("id")
    (tmp_path / "ids").write_text("\n".join(copy.values("id")[:4]))
    for flags, wanted in (
        (("--tags", "even"), copy.match_tags("even").values("id")),
        (("--match", '{"n": {"$lt": 5}}'), copy.values("id")[:5]),
        (("--view", "some"), some),
        (("--ids", tmp_path / "ids"), copy.values("id")[:4]),
    ):
        _, numbers = run(camflow, copy, A, B, *flags, folder=tmp_path)
        assert [row["sample"] for row in pairs(tmp_path)] == wanted and numbers["num_pairs"] == len(wanted)
    copy.save_view("less", copy.exclude_fields(B))
    refused = camflow("compare", "--dataset", copy.name, A, B, "--view", "less", code=2).stderr
    assert f"hides `{B}`" in refused


def test_a_view_shows_what_changed_most(planes, camflow, clone, tmp_path):
    copy = clone(planes)
    said, _ = run(camflow, copy, A, B, "--save-view", "worse first", folder=tmp_path)
    assert f"view `worse first`: {COUNT} samples" in said
    copy.reload()
    view = copy.load_saved_view("worse first")
    changes = dict(
        zip(copy.values("id"), np.subtract(copy.values(f"{B}.energy_inside"), copy.values(f"{A}.energy_inside")), strict=True)
    )
    assert view.values("id") == sorted(changes, key=lambda one: (-abs(changes[one]), one))
    assert {A, B} <= set(view.get_field_schema()) and "truth" not in view.get_field_schema()
    assert view.first()[B].map_path and view.first()[A].energy_inside == copy[view.first().id][A].energy_inside
    # Again, of others: it is the same view.
    run(camflow, copy, A, B, "--save-view", "worse first", "--tags", "even", folder=tmp_path)
    copy.reload()
    assert copy.list_saved_views() == ["worse first"] and len(copy.load_saved_view("worse first")) == COUNT // 2
    # One of the user's stays.
    copy.save_view("mine", copy.limit(1))
    refused = camflow("compare", "--dataset", copy.name, A, B, "--save-view", "mine", code=2).stderr
    assert "has a saved view `mine` already" in refused and len(copy.load_saved_view("mine")) == 1


def test_in_python(planes, binary, monkeypatch, tmp_path):
    monkeypatch.setenv("CAMFLOW_BIN", str(binary))
    comparison = api.compare(planes, "v1_*", "v2_*", max_drop=["energy_inside=0.02", "entropy=1"])
    assert len(comparison.crossed) == 1 and comparison.crossed[0].startswith("crossed: `energy_inside` fell")
    assert comparison.numbers["num_pairs"] == COUNT and "<iframe" in comparison._repr_html_()
    comparison.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == comparison.page
    assert api.compare(planes.limit(7), A, B).numbers["num_pairs"] == 7
    assert api.compare(planes, A, against=planes, most=0).numbers["maps"]["num_identical"] == COUNT
    with pytest.raises(api.CamflowError, match=r"v3_airplane"):
        api.compare(planes, A, "v3_airplane_1")
    with pytest.raises(api.CamflowError, match=r"energy_insid`"):
        api.compare(planes, A, B, max_drop="energy_insid=1")


def test_the_page_opens_in_a_browser_without_a_network(people, camflow, chromium, tmp_path):
    gates = ("--max-drop", "energy_inside=1")
    run(camflow, people, "person_grad_layer_*", "person_eigencam_layer_*", *gates, folder=tmp_path)
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page()
        trouble, requests = [], []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "c.html").as_uri())
        assert people.name in page.locator("h1").inner_text() and "A against B" in page.locator("h1").inner_text()
        assert page.locator(".findings li").count() >= 2
        # Of each sample that changed two pictures, all of them drawn.
        widths = page.locator(".change img").evaluate_all("images => images.map(image => image.naturalWidth)")
        assert len(widths) == 2 * page.locator(".change").count() >= 12 and min(widths) > 50
        # A, B and their difference of two layers, with the box.
        assert page.locator("svg.mean image").count() == page.locator("svg.mean rect").count() == 6
        # At a phone's width nothing is wider than the page.
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
    assert not trouble
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "c.html").as_uri()]
    assert not re.search(r"NaN|inf\b", re.sub(r"base64,[^\"]*", "", (tmp_path / "c.html").read_text()))
