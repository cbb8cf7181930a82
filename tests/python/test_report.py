"""`camflow report` on a real dataset: the numbers beside numpy's, and the page in a real browser."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from playwright.sync_api import sync_playwright
from real_app import browsed, dismiss, served, shown

PERSON = 15
FIELDS = ["person_grad_layer_3", "person_grad_layer_4"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def dataset(quickstart, camflow, standin_model, tmp_path_factory):
    source = fo.load_dataset(quickstart)
    copy = source.select([s.id for s in source if (s.resnet50_seg.mask == PERSON).any()][:12]).clone("reported")
    for index, sample in enumerate(copy):
        # A name of a tag that tries to be part of the page.
        sample.tags = ["even" if index % 2 == 0 else "<b>odd</b>"]
        sample.save()
    annotate = ("annotate", "--dataset", copy.name, "--class", "person", "--layers", "3,4", "--device", "cpu", "--name", "people")
    target = ("--target", "labels:resnet50_seg", "--model", standin_model, "--out", tmp_path_factory.mktemp("maps"))
    camflow(*annotate, *target)
    copy.reload()
    yield copy
    copy.delete()


def attribute(dataset, field, name):
    return np.array(dataset.values(f"{field}.{name}"), float)


def test_the_numbers_are_those_of_the_labels(dataset, camflow, tmp_path):
    camflow(
        *(
            "report",
            "--dataset",
            dataset.name,
            "--out",
            tmp_path / "r.html",
            "--json",
            tmp_path / "r.json",
            "--csv",
            tmp_path / "r.csv",
        )
    )
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert len(rows) == 24 and {row["field"] for row in rows} == set(FIELDS)
    for row in rows:
        label = dataset[row["sample"]][row["field"]]
        assert float(row["energy_ratio"]) == label.energy_ratio and bool(float(row["pointing_hit"])) == label.pointing_hit
        assert row["tags"] in ("even", "<b>odd</b>") and row["rank_correlation"] == str(label.rank_correlation or "")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["num_samples"], report["num_heatmaps"]) == (12, 24)
    for series in report["series"]:
        for name in ("energy_ratio", "energy_inside", "entropy", "center_offset"):
            values, said = attribute(dataset, series["field"], name), series["measures"][name]
            assert said["mean"] == pytest.approx(values.mean()) and (said["min"], said["max"]) == (values.min(), values.max())
            # Medians are counted in bins; between the two middle values any is one.
            low, high = np.sort(values)[5:7]
            assert low - 0.02 * high <= said["p50"] <= high * 1.02
        ratios = attribute(dataset, series["field"], "energy_ratio")
        assert [worst["value"] for worst in series["worst"]] == sorted(ratios)[:6]
        assert series["num_below_chance"] == (ratios < 1).sum()
        even = attribute(dataset.match_tags("even"), series["field"], "energy_ratio")
        assert series["tags"]["even"]["energy_ratio"]["mean"] == pytest.approx(even.mean())
    (contest,) = report["contests"]
    won = attribute(dataset, contest["first"], "energy_ratio") > attribute(dataset, contest["second"], "energy_ratio")
    assert (contest["num_samples"], contest["num_won"]) == (12, won.sum())


@pytest.fixture
def looking_elsewhere(dataset, clone):
    """The same, but for what is said of where the heatmaps of one field lie."""
    copy = clone(dataset)
    copy.set_values(f"{FIELDS[1]}.energy_ratio", [value / 10 for value in copy.values(f"{FIELDS[1]}.energy_ratio")])
    return copy


def test_the_page_opens_in_a_browser_without_a_network(looking_elsewhere, camflow, tmp_path):
    dataset = looking_elsewhere
    page_file = tmp_path / "report.html"
    camflow("report", "--dataset", dataset.name, "--run", "camflow_people", "--out", page_file)
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert executable, "no Chromium: run `sudo apt-get install chromium`"
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        page = browser.new_page()
        trouble, requests = [], []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        assert page.locator("h1").inner_text() == f"Where the model looks: {dataset.name}"
        assert page.locator(".findings li").count() >= 1
        # Two series, and in each the six worst and the six best; all of them pictures that were drawn.
        widths = page.locator("figure img").evaluate_all("images => images.map(image => image.naturalWidth)")
        num_shown = page.locator(".findings figure img, .shortcuts figure img").count()
        assert num_shown >= 4 and len(widths) == 24 + num_shown and min(widths) > 50
        # Each leads to its sample in the App, and is named by its file.
        first = dataset.first()
        links = page.locator("figure a").evaluate_all("links => links.map(link => link.href)")
        wanted = {f"http://localhost:5151/datasets/{dataset.name}?id={sample.id}" for sample in dataset}
        assert len(links) == len(widths) and set(links) <= wanted
        assert any(Path(first.filepath).name in text for text in page.locator("figcaption").all_inner_texts())
        facts = dict(row.split("\t", 1) for row in page.locator(".facts tr").all_inner_texts())
        assert facts["Heatmaps"] == "24 heatmaps of 12 samples, in 2 series"
        assert "12 samples annotated, 0 skipped, 0 failed" in facts["Run camflow_people"]
        # On a phone nothing is wider than the page.
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.locator("svg.plot rect").count() > 20
        # A click on a head sorts.
        ratios = lambda: [float(t) for t in page.locator("#series td:nth-child(4)").all_inner_texts()]
        head = page.locator("#series th:nth-child(4)")
        head.click()
        assert ratios() == sorted(ratios())
        head.click()
        assert ratios() == sorted(ratios(), reverse=True)
        assert page.locator("b", has_text="odd").count() == 0, "a tag is text"
        browser.close()
    assert not trouble
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]


def test_a_report_of_chosen_samples(dataset, camflow, clone, tmp_path):
    copy = clone(dataset)
    copy.save_view("some", copy.skip(2).limit(5))
    chosen = copy.load_saved_view("some").values("id")
    (tmp_path / "ids").write_text("\n".join(copy.values("id")[:4]))
    for flags, wanted in (
        (("--view", "some"), set(chosen)),
        (("--ids", tmp_path / "ids"), set(copy.values("id")[:4])),
        (("--view", "some", "--ids", tmp_path / "ids"), set(chosen[:2])),
    ):
        camflow("report", "--dataset", copy.name, "--out", tmp_path / "r.html", "--csv", tmp_path / "r.csv", *flags)
        with (tmp_path / "r.csv").open() as file:
            assert {row["sample"] for row in csv.DictReader(file)} == wanted
    assert "of the view some" in (tmp_path / "r.html").read_text()

    # Heatmaps count as they are stored; those that a view hides are left out.
    def report(view, *flags, code=0):
        copy.save_view("other", view, overwrite=True)
        return camflow("report", "--dataset", copy.name, "--view", "other", "--out", tmp_path / "r.html", *flags, code=code)

    few = copy.limit(3).exclude_fields(FIELDS[0])
    said = report(few, "--csv", tmp_path / "r.csv").stdout
    assert f"hides `{FIELDS[0]}`: left out" in said
    with (tmp_path / "r.csv").open() as file:
        assert {row["field"] for row in csv.DictReader(file)} == set(
            copy.get_field_schema(fo.EmbeddedDocumentField, fo.Heatmap)
        ) - {FIELDS[0]}
    assert f"hides `{FIELDS[0]}`" in report(few, "--fields", ",".join(FIELDS), code=2).stderr
    changed = copy.set_field(f"{FIELDS[0]}.energy_ratio", 1.0)
    refused = report(changed, code=2).stderr
    assert "changes heatmaps or paths by `SetField`" in refused and "as they are stored" in refused and "hint: " in refused
    report(changed, "--fields", FIELDS[1])


def test_a_change_since_the_last_report_is_named(dataset, looking_elsewhere, camflow, tmp_path):
    camflow("report", "--dataset", dataset.name, "--out", tmp_path / "r.html", "--json", tmp_path / "then.json")
    copy = looking_elsewhere
    again = camflow("report", "--dataset", copy.name, "--out", tmp_path / "r.html", "--baseline", tmp_path / "then.json")
    assert "energy_ratio fell from" in again.stdout and "Since 20" in (tmp_path / "r.html").read_text()
    assert "attention on the object is below chance in" in again.stdout


def test_what_is_wrong_is_said(dataset, camflow, quickstart, tmp_path):
    def error(*flags, code=2):
        return camflow("report", "--out", tmp_path / "no.html", *flags, code=code).stderr

    assert "has no heatmaps" in error("--dataset", quickstart) and "camflow annotate" in error("--dataset", quickstart)
    assert "`person_grad_layer_4`" in error("--dataset", dataset.name, "--fields", "person_grad_layer_5")
    assert "camflow_people" in error("--dataset", dataset.name, "--run", "camflow_peple")
    assert "no sample of the selection" in error("--dataset", dataset.name, "--tags", "none")
    (tmp_path / "odd.json").write_text("{}")
    assert "camflow report --json" in error("--dataset", dataset.name, "--baseline", tmp_path / "odd.json")
    assert not (tmp_path / "no.html").exists()
    (tmp_path / "file").write_text("")
    assert "cannot write" in error("--dataset", dataset.name, "--csv", tmp_path / "file" / "r.csv")


def test_fields_count_once_however_often_they_are_named(dataset, camflow, tmp_path):
    flags = ("--dataset", dataset.name, "--fields", f"{FIELDS[0]},{FIELDS[0]}")
    camflow("report", *flags, "--out", tmp_path / "r.html", "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["num_heatmaps"], report["contests"]) == (12, [])
    assert "12 heatmaps with 24 files" in camflow("check", *flags).stdout
    assert camflow("remove", *flags).stdout.count("would remove field") == 1


def test_a_selection_that_is_a_slip_is_told(dataset, camflow, tmp_path):
    def report(*flags, code=0):
        return camflow("report", "--dataset", dataset.name, "--out", tmp_path / "r.html", *flags, code=code)

    assert f"note: no sample of dataset `{dataset.name}` has the tag `evn`" in report("--tags", "even", "--tags", "evn").stdout
    assert (
        f"hint: no sample of dataset `{dataset.name}` has the tag `evn`: the tags are `even`"
        in report("--tags", "evn", code=2).stderr
    )
    assert "note: `--match` names field `tag`, which" in report("--match", '{"tag": {"$ne": "even"}}').stdout
    (tmp_path / "ids").write_text(f"{dataset.first().id}\n6b03690476852489c1dd7256\n")
    assert f"note: 1 of the 2 ids are not in dataset `{dataset.name}`" in report("--ids", tmp_path / "ids").stdout
    (tmp_path / "ids").write_text("6b03690476852489c1dd7256\n")
    assert "the id `6b03690476852489c1dd7256` is not in it" in report("--ids", tmp_path / "ids", code=2).stderr


def test_an_earlier_report_is_whole_and_of_this_dataset(dataset, camflow, tmp_path):
    def report(*flags, code=0):
        return camflow("report", "--dataset", dataset.name, "--out", tmp_path / "r.html", *flags, code=code)

    numbers = tmp_path / "n.json"
    assert "earlier report" not in report("--json", numbers).stdout
    whole = json.loads(numbers.read_text())
    for wrong, said in (
        ({"version": 1, "series": []}, "it is about no heatmaps"),
        ({**whole, "series": [{}]}, "it lacks `field`"),
        ({key: value for key, value in whole.items() if key != "created"}, "it lacks `created`"),
    ):
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        refused = report("--baseline", tmp_path / "wrong.json", code=2).stderr
        assert "is not an earlier report: " in refused and said in refused and "hint: " in refused
    (tmp_path / "other.json").write_text(json.dumps({**whole, "dataset": "another"}))
    done = report("--baseline", tmp_path / "other.json")
    assert f"is of dataset `another`, not of `{dataset.name}`" in done.stdout
    # Nothing is written over what is needed.
    page = tmp_path / "page.html"
    for flags, pair in (
        (("--json", tmp_path / "r.html"), "`--out` and `--json`"),
        (("--json", page, "--csv", page), "`--json` and `--csv`"),
        (("--csv", numbers, "--baseline", numbers), "`--csv` and `--baseline`"),
    ):
        assert f"{pair} are the same file" in report(*flags, code=2).stderr
    assert json.loads(numbers.read_text()) == whole and not page.exists()
    report("--baseline", numbers, "--json", numbers)


def test_the_samples_of_findings_are_views_of_the_dataset(looking_elsewhere, camflow, tmp_path):
    dataset = looking_elsewhere
    page, numbers = tmp_path / "report.html", tmp_path / "numbers.json"

    said = []

    def report(*more) -> list[dict]:
        said.append(camflow("report", "--dataset", dataset.name, "--out", page, "--json", numbers, "--save-views", *more).stdout)
        dataset.reload()
        return [finding for finding in json.loads(numbers.read_text())["findings"] if finding["samples"]]

    found = report()
    names = [name for name in dataset.list_saved_views() if name.startswith("camflow finding")]
    assert len(names) == len(found) >= 1
    for name, finding in zip(names, found, strict=True):
        view = dataset.load_saved_view(name)
        assert [sample.id for sample in view] == finding["samples"]
        assert [sample.filepath for sample in view] == finding["filepaths"]
        assert dataset.get_saved_view_info(name)["description"] == f"camflow report: {finding['text']}"
    assert f"/datasets/{dataset.name}?view={names[0].replace(' ', '-')}" in page.read_text()
    # The next report replaces them; what somebody made his own stays.
    dataset.update_saved_view_info(names[0], {"description": "for Monday"})
    first = [sample.id for sample in dataset.load_saved_view(names[0])]
    report("--worst", "2")
    assert [sample.id for sample in dataset.load_saved_view(names[0])] == first
    assert dataset.get_saved_view_info(names[0])["description"] == "for Monday"
    assert "not saved" not in said[0] and f"note: not saved: `{names[0]}`; the dataset has views of these names" in said[1]
    assert "?view=" + names[0].replace(" ", "-") not in page.read_text()


def test_the_pages_links_open_the_samples_in_the_app(looking_elsewhere, camflow, database, chromium, tmp_path):
    dataset, page_file = looking_elsewhere, tmp_path / "report.html"
    with served(database, tmp_path / "app.log") as url, browsed(chromium, 1400, 900) as page:
        camflow("report", "--dataset", dataset.name, "--out", page_file, "--save-views", "--app-url", f"{url}/")
        page.goto(page_file.as_uri())
        of_view = page.locator(".findings a.view").first.get_attribute("href")
        of_sample = page.locator(".findings figure a").first.get_attribute("href")
        dataset.reload()
        view = dataset.load_saved_view("camflow finding 1")
        page.goto(of_view)
        shown(page, len(view))
        dismiss(page)
        assert 0 < len(view) < len(dataset)
        page.goto(of_sample)
        page.wait_for_selector("[data-cy=modal] [data-cy=looker] canvas")
        page.get_by_text(Path(dataset[of_sample.rpartition("=")[2]].filepath).name).first.wait_for()
