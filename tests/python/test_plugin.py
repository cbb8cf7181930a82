"""The FiftyOne plugin, in the real App and as a delegated operation: fill in the form, run, see the heatmaps; see the plots.

With `CAMFLOW_SCREENSHOTS=FOLDER` what the App shows is kept there.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fiftyone as fo
import fiftyone.operators as foo
import hugging_face_folders as folders
import numpy as np
import psutil
import pytest
import transformers
from conftest import ROOT
from fiftyone import ViewField as F
from fiftyone.operators.delegated import DelegatedOperationService
from fiftyone.operators.executor import ExecutionError
from matplotlib import colormaps
from PIL import Image
from playwright.sync_api import Error as PlaywrightError
from real_app import MOMENT, PATIENCE, browsed, changed, dismiss, leave, served, settled, show, shown, tick, ticked
from small_detector import apart, picture

PLUGIN = ROOT / "pipelines" / "fiftyone-plugin"
OPERATOR = "@camflow/camflow/compute_heatmaps"
PICTURES = ("000", "003", "007", "011", "012", "016", "021", "027")
MEASURE = "energy_ratio"
# What the panel's tests look at.
FIELDS = ("person_grad_layer_3", "person_grad_layer_4")


@pytest.fixture(scope="module")
def settings(binary, standin_model, database, tmp_path_factory):
    """What an App needs to know, and this process too: the plugin, the program, a cache with one model."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "plugins").mkdir()
    (folder / "plugins" / "camflow").symlink_to(PLUGIN)
    (folder / "cache" / "models").mkdir(parents=True)
    (folder / "cache" / "models" / "standin-deeplab.pt2").symlink_to(standin_model)
    settings = {
        "FIFTYONE_PLUGINS_DIR": str(folder / "plugins"),
        "CAMFLOW_BIN": str(binary),
        "CAMFLOW_CACHE": str(folder / "cache"),
        "XDG_DATA_HOME": str(folder / "data"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fo.config, "plugins_dir", settings["FIFTYONE_PLUGINS_DIR"])
        for name, value in settings.items():
            patch.setenv(name, value)
        yield settings


@pytest.fixture(scope="module")
def plugin():
    """The plugin's modules, as a package."""
    spec = importlib.util.spec_from_file_location("camflow_plugin", PLUGIN / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def dataset(quickstart, camflow, standin_model, tmp_path_factory):
    """Eight pictures of people, with heatmaps of two layers."""
    source = fo.load_dataset(quickstart)
    copy = source.select([s.id for s in source if Path(s.filepath).stem in PICTURES]).clone("plugin")
    copy.persistent = True
    camflow(
        *("annotate", "--dataset", copy.name, "--class", "person", "--layers", "3-4", "--device", "cpu"),
        *("--target", "labels:ground_truth", "--model", standin_model, "--out", tmp_path_factory.mktemp("maps")),
    )
    copy.reload()
    yield copy
    copy.delete()


@pytest.fixture(scope="module")
def app(chromium, database, settings, dataset, tmp_path_factory):
    """A browser's page on an App with the plugin."""
    with (
        served(database, tmp_path_factory.mktemp("app") / "server.out", **settings) as url,
        browsed(chromium, width=1500, height=900) as page,
    ):
        page.app = url
        show(page, url, dataset)
        dismiss(page)
        yield page


def keep(page, name: str) -> None:
    if folder := os.environ.get("CAMFLOW_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def open_form(page) -> None:
    """Opens the operator as people do, and waits until the form knows the model."""
    page.keyboard.press("`")
    # Among those of a like name, what was used last comes first.
    page.get_by_placeholder("Search operations by name").fill("camflow: compute")
    page.get_by_text("camflow: compute heatmaps").wait_for()
    page.keyboard.press("Enter")
    page.get_by_text("4: backbone.layer4").wait_for()


def fill(page, number: int, *values: str) -> None:
    """Fills in the list with this number in the form: classes, methods, layers."""
    field = page.locator(".MuiAutocomplete-root", has=page.locator("input[placeholder^='Type and press enter']")).nth(number)
    entry, chips = field.locator("input"), field.locator(".MuiChip-root")
    kept = chips.all_inner_texts()
    for value in values:
        # What is among the choices has a text of its own: "1: backbone.layer1".
        wanted = re.compile(f"^{re.escape(value)}(:|$)")
        chip = chips.filter(has_text=wanted).first

        def enter(value=value, wanted=wanted, chip=chip):
            # A form that is drawn anew while somebody types forgets what was typed, and Enter then takes the first of all choices.
            for text in chips.all_inner_texts():
                if text not in kept and not wanted.match(text):
                    chips.filter(has_text=re.compile(f"^{re.escape(text)}$")).locator("svg").click(timeout=MOMENT)
            if not chip.is_visible():
                entry.fill(value, timeout=MOMENT)
                entry.press("Enter", timeout=MOMENT)
            chip.wait_for(timeout=MOMENT)

        again(page, enter)
        kept.append(chip.inner_text())


def untick_default(page) -> None:
    """Takes away the layer that the form begins with."""
    page.get_by_text("4: backbone.layer4").locator("..").locator("svg").click()


def submit(page, name="Compute") -> None:
    # It can be pressed once the form was found to be complete.
    page.get_by_role("button", name=name, exact=True).click()


def execute(dataset, operator=OPERATOR, **more):
    """Runs the operator from Python, in a thread of its own: in this one, playwright's loop is running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(foo.execute_operator, operator, {"dataset": dataset, **more}).result()


def params(settings, **more) -> dict:
    """A filled-in form."""
    model = Path(settings["CAMFLOW_CACHE"]) / "models" / "standin-deeplab.pt2"
    return {"model": str(model), "target": "labels:ground_truth", "classes": ["person"], "layers": ["2"], **more}


def test_the_form_offers_what_the_program_knows(plugin, camflow, settings, monkeypatch, tmp_path):
    help_text = " ".join(camflow("annotate", "--help").stdout.split())
    listed = re.search(r"--method .*?\[possible values: (.*?)\]", help_text)[1].split(", ")
    assert list(plugin.form.METHODS) == listed
    assert plugin.form.estimate.WHOLE < set(listed)
    listed = re.search(r"--counterfactuals .*?\[possible values: (.*?)\]", help_text)[1].split(", ")
    assert sorted(plugin.form.REPLACEMENTS) == sorted(listed)

    # The cache is where camflow looks for names.
    (path,) = plugin.models.exported()
    assert str(path) in camflow("inspect", path.stem).stdout
    model = plugin.models.Model.read(path)
    inspected = camflow("inspect", path.stem, "--all").stdout
    assert f"{model.classes.index('person')} person" in inspected
    assert model.numbered_layers["4"] == "backbone.layer4" and model.default_layers == ["4"]
    assert all(f" {layer} " in inspected for layer in model.layers) and len(model.layers) > 50
    with pytest.raises(plugin.models.NoModelError, match=re.escape(str(ROOT / "README.md"))):
        plugin.models.Model.read(ROOT / "README.md")

    # And the program is where people put it.
    monkeypatch.setenv("CAMFLOW_BIN", "/nowhere/camflow")
    with pytest.raises(plugin.program.CamflowError, match="CAMFLOW_BIN is `/nowhere/camflow`"):
        plugin.program.find()
    monkeypatch.delenv("CAMFLOW_BIN")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(plugin.program.CamflowError, match="pip install"):
        plugin.program.find()
    (tmp_path / "camflow").symlink_to(settings["CAMFLOW_BIN"])
    assert plugin.program.find() == str(tmp_path / "camflow")


def test_the_form_counts_samples_and_labels(plugin, settings, clone, dataset):
    """The classes that the labels have come first, with their counts; labels that the model does not know are named."""
    copy = clone(dataset)
    for number, sample in enumerate(copy):
        names = ["person", "unicorn"] if number < 3 else ["car"]
        detections = [fo.Detection(label=name, bounding_box=[0.1, 0.1, 0.5, 0.5]) for name in names]
        sample["boxes"] = fo.Detections(detections=detections)
        sample.save()
    (model,) = plugin.models.exported()

    def form(view=None, **more):
        request = {"dataset_name": copy.name, "params": {"model": str(model), "target": "labels:boxes", **more}}
        request |= {"view": view._serialize()} if view is not None else {}
        return plugin.form.build(foo.ExecutionContext(request_params=request)).type.to_json()["properties"]

    whole = form()
    assert whole["num_images"]["view"]["label"] == "8 images; those that are up to date are passed over"
    labels = [choice["label"] for choice in whole["classes"]["view"]["choices"]]
    assert labels[:2] == ["car: 5 in `boxes`", "person: 3 in `boxes`"] and "background" in labels
    assert whole["classes"]["view"]["description"].endswith("Not among the model's classes: unicorn (3)")
    assert whole["estimate"]["view"]["label"] == "1 heatmap an image for each class"
    # The dataset's own run tells bytes, and time where it had the same methods.
    many = {"classes": ["person", "car"], "layers": ["1-3", "backbone.layer4"], "methods": ["gradcam", "layercam"]}
    told = form(**many)["estimate"]["view"]["label"]
    assert re.fullmatch(r"At most 128 heatmaps, about \d+\wB of files, as in the run camflow_\w+", told), told
    told = form(classes=["all"])["estimate"]["view"]["label"]
    assert re.fullmatch(r"At most 24 heatmaps, about \d+\wB of files and \d+ \w+, as in the run camflow_\w+", told), told
    copy.delete_runs()
    told = form(**many)["estimate"]["view"]["label"]
    assert told == "At most 128 heatmaps; how long that takes is said once some are made"
    part = form(copy.limit(1))
    assert part["num_images"]["view"]["label"].startswith("1 image;")
    assert part["classes"]["view"]["choices"][0]["label"] == "person: 1 in `boxes`"


def select(page, *numbers: int) -> None:
    """Selects these pictures of the grid and no others. An App keeps what was selected before its page was loaded again, but shows it
    some time after the pictures; and a click on a picture that is drawn anew is lost."""
    samples = page.locator("[data-cy=looker]")
    boxes = samples.locator("input[type=checkbox]")
    wanted = [number in numbers for number in range(samples.count())]

    def once():
        for sample, box, chosen in zip(samples.all(), boxes.all(), wanted, strict=False):
            if box.is_checked(timeout=MOMENT) != chosen:
                sample.hover(timeout=MOMENT)
                sample.locator("label").click(timeout=MOMENT)
        settled(page)
        return [box.is_checked(timeout=MOMENT) for box in boxes.all()] == wanted

    until(page, lambda: again(page, once))


def test_heatmaps_from_the_app(app, dataset, settings):
    show(app, app.app, dataset)
    # Two of the eight.
    select(app, 0, 3)
    # What camflow ticked by itself when the dataset got its first heatmaps would lie below the new ones.
    tick(app, "person_grad_layer_4")
    off = settled(app)
    open_form(app)
    assert app.get_by_label("Current selection").is_checked()
    fill(app, 0, "person")
    fill(app, 2, "1-2")
    untick_default(app)
    keep(app, "form")
    submit(app)
    # The dialog has the progress, then the result.
    app.get_by_text("2 samples read: 2 annotated (4 heatmaps), 0 skipped, 0 failed").wait_for()
    keep(app, "result")
    app.get_by_role("button", name="Done").click()
    leave(app)

    dataset.reload()
    with_heatmap = dataset.exists("person_grad_layer_2").values("id")
    ids = dataset.values("id")
    assert with_heatmap == [ids[0], ids[3]]
    assert dataset.first()["person_grad_layer_1"].layer == "backbone.layer1"
    assert dataset.first()["person_grad_layer_1"].map_path.startswith(settings["XDG_DATA_HOME"])
    assert "person_grad_layer_4" in dataset.get_field_schema() and not dataset.exists("person_grad_layer_5").count()

    # Without reloading the page, the field is ticked in the sidebar, and drawn over the two.
    drawn = settled(app, lambda shot: sum(p.mean() > 0.2 for p in changed(app, off, shot)) == 2)
    keep(app, "drawn")
    assert [pixels.mean() > 0.2 for pixels in changed(app, off, drawn)] == [number in (0, 3) for number in range(8)]


def groups(page) -> dict[str, list[str]]:
    """The sidebar's groups and the heatmap fields in them, from top to bottom."""
    where = "all => all.map(row => [row.getBoundingClientRect().top, row.dataset.cy])"
    found: dict[str, list[str]] = {}
    for _, row in sorted(page.eval_on_selector_all("[data-cy$=-field]", where)):
        name = row.removesuffix("-field")
        if name.startswith("sidebar-group-"):
            found[group := name.removeprefix("sidebar-group-")] = []
        elif name.startswith("person_"):
            found[group].append(name)
    return {group: fields for group, fields in found.items() if fields}


def grouped(page, fields: list[str]) -> None:
    """Waits until the sidebar has these heatmap fields and no others, in the group of their own."""
    until(page, lambda: groups(page) == {"heatmaps": fields})


def test_new_fields_stand_in_their_group_of_a_page_that_is_open(app, dataset, clone):
    """As in a page that is opened afterwards: of the first run, which makes the group, and of the next."""
    fresh = clone(dataset.limit(2))
    fresh.delete_sample_fields(list(fresh.get_field_schema(embedded_doc_type=fo.Heatmap)))
    fresh.app_config.color_scheme = fresh.app_config.active_fields = fresh.app_config.sidebar_groups = None
    fresh.save()
    show(app, app.app, fresh)
    select(app)
    assert groups(app) == {}
    fields: list[str] = []
    for layers in ("3-4", "1-2"):
        open_form(app)
        fill(app, 0, "person")
        fill(app, 2, layers)
        untick_default(app)
        submit(app)
        app.get_by_text("2 samples read: 2 annotated (4 heatmaps)").wait_for()
        app.get_by_role("button", name="Done").click()
        leave(app)
        fields += [f"person_grad_layer_{layer}" for layer in layers.split("-")]
        grouped(app, fields)
        keep(app, f"groups-{layers}")
    fresh.reload()
    assert [(group.name, group.paths) for group in fresh.app_config.sidebar_groups] == [("heatmaps", fields)], (
        "the page has not made the groups its own"
    )
    show(app, app.app, fresh)
    grouped(app, fields)
    keep(app, "groups-reloaded")


def test_an_error_is_told_in_its_own_words(app, dataset, settings):
    show(app, app.app, dataset)
    open_form(app)
    fill(app, 0, "zebra")
    submit(app)
    app.get_by_text("there is no class").wait_for()
    assert app.get_by_text("hint: the classes are").is_visible()
    keep(app, "error")

    with pytest.raises(ExecutionError, match="there is no class `zebra`"):
        execute(dataset, params=params(settings, classes=["zebra"]))


def test_a_finished_run_shows_its_heatmaps(app, dataset, settings):
    """The button of the result: of what the page shows, the samples with the run's heatmaps, and these drawn over them."""
    show(app, app.app, dataset)
    select(app, 1, 2)
    open_form(app)
    fill(app, 0, "person")
    app.get_by_text(re.compile(r"^At most 2 heatmaps, about \d+\wB of files and \d+ \w+, as in the run ")).wait_for()
    submit(app)
    app.get_by_text("2 samples read:").wait_for()
    keep(app, "result-with-button")
    # Behind the result the page loads the dataset anew.
    settled(app)
    app.get_by_role("button", name="Show", exact=True).click()
    shown(app, 2)
    keep(app, "shown")
    app.get_by_role("button", name="Done").click()
    leave(app)
    ticked(app, FIELDS[1])
    on = settled(app)
    keep(app, "shown-grid")
    tick(app, FIELDS[1])
    off = settled(app, lambda shot: all(pixels.mean() > 0.2 for pixels in changed(app, on, shot)))
    assert [pixels.mean() > 0.2 for pixels in changed(app, on, off)] == [True, True]
    # An App keeps its view, too, when its page is loaded again.
    app.click("[data-cy=btn-clear-view-bar]")
    shown(app, len(dataset))
    settled(app)


def test_heatmaps_are_compared_from_python(plugin, camflow, dataset, clone, settings):
    refused = camflow("compare", "a", "b", "--dataset", "x", "--by", "nothing", code=2).stderr
    assert list(plugin.compare.MEASURES) == re.search(r"possible values: (.*?)\]", refused)[1].split(", ")

    copy = clone(dataset)
    operator = "@camflow/camflow/compare_heatmaps"
    asked = {"a": FIELDS[0], "b": FIELDS[1], "by": "energy_ratio", "save_view": "deeper"}
    result = execute(copy, operator, view=copy.limit(6), params=asked).result
    assert f"A is `{FIELDS[0]}`, B is `{FIELDS[1]}`: 6 pairs of 6 samples" in result["summary"]
    [row] = re.findall(r"^\| energy_inside \| (\S+) \| (\S+) \| (\S+) \|", result["summary"], re.MULTILINE)
    means = [np.mean(copy.limit(6).values(f"{field}.energy_inside")) for field in FIELDS]
    assert row == (f"{means[0]:.3f}", f"{means[1]:.3f}", f"{means[1] - means[0]:+.3f}")
    assert result["show"] == {"view": "deeper", "fields": list(FIELDS), "beside": True}
    copy.reload()
    view = copy.load_saved_view("deeper")
    assert sorted(view.values("id")) == sorted(copy.limit(6).values("id"))

    with pytest.raises(ExecutionError, match="no heatmap field"):
        execute(copy, operator, params={**asked, "b": "nothing"})
    # In the form: fields and runs.
    prompt = partial(foo.executor.ExecutionContext, operator_uri=operator)
    offered = plugin.CompareHeatmaps().resolve_input(prompt({"dataset_name": copy.name, "params": {}})).to_json()
    offered = offered["type"]["properties"]
    names = [choice["value"] for choice in offered["a"]["view"]["choices"]]
    assert {*FIELDS, *copy.list_runs(method="camflow")} <= {*names} and "ground_truth" not in names


def test_labels_are_made_of_heatmaps_from_python(plugin, dataset, clone, settings):
    copy = clone(dataset)
    operator = "@camflow/camflow/localize_heatmaps"
    asked = {"fields": [FIELDS[1]], "truth": "ground_truth", "boxes": "found", "largest": True}
    result = execute(copy, operator, params=asked).result
    assert "Labels: 8 written." in result["summary"] and "show" not in result
    [threshold, iou] = re.findall(r"^\| person_grad_layer_4 \| person \| (\S+) \| (\S+) \|", result["summary"], re.MULTILINE)[0]
    assert 0.01 <= float(threshold) <= 1 and 0 < float(iou) <= 1
    copy.reload()
    assert [len(found.detections) for found in copy.values("found")] == [1] * 8
    assert "8 up to date" in execute(copy, operator, params=asked).result["summary"]
    with pytest.raises(ExecutionError, match="no threshold"):
        execute(copy, operator, params={"fields": [FIELDS[1]], "boxes": "others"})


def test_heatmaps_are_compared_in_the_app(app, dataset):
    """The form, the table of differences, and its button: the saved view."""
    show(app, app.app, dataset)
    select(app)
    app.keyboard.press("`")
    app.get_by_placeholder("Search operations by name").fill("camflow: compare")
    app.get_by_text("camflow: compare heatmaps").wait_for()
    app.keyboard.press("Enter")
    entries = app.locator("[role=dialog] [role=combobox], [role=dialog] input[type=text]")

    def chosen() -> bool:
        # As in `fill`: what was typed may be forgotten, and another field be taken.
        for number, field in enumerate(FIELDS):
            if entries.nth(number).input_value(timeout=MOMENT) != field:
                entries.nth(number).click(timeout=MOMENT)
                entries.nth(number).fill(field, timeout=MOMENT)
                entries.nth(number).press("Enter", timeout=MOMENT)
        settled(app)
        return tuple(entry.input_value(timeout=MOMENT) for entry in entries.all()[: len(FIELDS)]) == FIELDS

    until(app, lambda: again(app, chosen))
    keep(app, "compare-form")
    submit(app, "Compare")
    app.get_by_text("8 pairs of 8 samples").wait_for()
    keep(app, "compare-result")
    app.get_by_role("button", name="Show", exact=True).click()
    app.get_by_role("button", name="Done").click()
    app.get_by_text("camflow comparison").first.wait_for()
    leave(app)
    ticked(app, FIELDS[0])
    beside(app, 8)
    keep(app, "compare-shown")
    dataset.reload()
    dataset.delete_saved_view("camflow comparison")
    # A view that is cleared while the App still opens it comes back when the page is loaded again.
    stage = app.get_by_text("SelectFields")
    clear = lambda: (app.click("[data-cy=btn-clear-view-bar]", timeout=MOMENT), stage.wait_for(state="detached", timeout=MOMENT))

    def gone():
        show(app, app.app, dataset)
        settled(app)
        if there := stage.count():
            again(app, clear)
        return not there

    again(app, clear)
    until(app, gone)


def test_two_heatmaps_are_drawn_over_their_photograph(plugin, dataset, tmp_path):
    overlays, beside = plugin.overlays, plugin.side_by_side
    values = np.linspace(0, 1, 9, dtype=np.float32)
    assert np.abs(overlays.jet(values) / 255 - colormaps["jet"](values)[:, :3]).max() < 0.15
    # The part that the model did not see is the photograph alone.
    photo = Image.fromarray(np.full((4, 8, 3), 100, np.uint8))
    levels = np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 4, 0), 4, 1)
    mixed = np.asarray(overlays.overlay(photo, levels))
    assert mixed[0, 0].tolist() == [100, 100, 100] and mixed[0, 7].tolist() == [114, 50, 50]

    sample = dataset.first()
    (identity, text), picture = beside.row(sample, *FIELDS)
    assert identity == sample.id and f"`{Path(sample.filepath).name}`" in text and "person, " in text
    row = Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2])))
    photo = overlays.photograph(sample.filepath, None)
    assert row.size == (3 * photo.width + 2 * overlays.GAP, photo.height)
    left, right = (
        np.asarray(row.convert("RGB").crop((at, 0, at + photo.width, photo.height)), int)
        for at in (photo.width + overlays.GAP, 2 * (photo.width + overlays.GAP))
    )
    for found, field in ((left, FIELDS[0]), (right, FIELDS[1])):
        wanted = np.asarray(overlays.overlay(photo, overlays.levels(sample[field])), int)
        assert np.abs(found - wanted).mean() < 4

    # What is missing is said, and does not keep the rest from being shown.
    sample[FIELDS[1]].map_path = str(tmp_path / "gone.png")
    (_, text), picture = beside.row(sample, *FIELDS)
    assert f"there is no file `{tmp_path / 'gone.png'}`" in text and picture
    sample.filepath = str(tmp_path / "gone.jpg")
    (_, text), picture = beside.row(sample, *FIELDS)
    assert f"there is no file `{tmp_path / 'gone.jpg'}`" in text and picture is None
    assert beside.pair(["a", "b", "c"], None, "gone") == ("a", "c") and beside.pair([], "a", None) == (None, None)


def test_a_heatmap_lies_on_the_photograph_as_it_was_made(plugin, tmp_path):
    """Photographs that are stored turned: heatmaps are of the stored pixels, or with `--apply-exif` of the upright image."""
    exif = Image.Exif()
    exif[plugin.overlays.ORIENTATION] = 6
    path = str(tmp_path / "turned.jpg")
    Image.new("RGB", (60, 30)).save(path, exif=exif)
    sizes = {None: (30, 60), (30, 60): (60, 30), (15, 30): (60, 30), (60, 30): (30, 60)}
    for shape, size in sizes.items():
        like = None if shape is None else np.zeros(shape, np.uint8)
        assert plugin.overlays.photograph(path, like).size == size


def test_heatmaps_are_side_by_side_in_the_app(app, dataset, plugin):
    show(app, app.app, dataset)
    select(app)
    tab = app.locator("[data-cy=panel-tab-side_by_side]")
    # The comparison of another test may have left it open.
    if not tab.count():
        app.click("[data-cy=new-panel-btn]")
        app.get_by_text("Heatmaps side by side").click()
    pictures = beside(app, 8)
    keep(app, "side-by-side")
    different = {plugin.side_by_side.row(sample, *FIELDS)[1] for sample in dataset}
    shows = lambda wanted: {one.get_attribute("src", timeout=MOMENT) for one in pictures.all()} == wanted
    for label, field in zip(("Left", "Right"), FIELDS, strict=True):
        again(app, partial(pick, app, label, field), leaves="Escape")
    until(app, lambda: shows(different))
    # One field on both sides.
    alike = {plugin.side_by_side.row(sample, FIELDS[0], FIELDS[0])[1] for sample in dataset}
    again(app, partial(pick, app, "Right", FIELDS[0]), leaves="Escape")
    until(app, lambda: shows(alike))

    # A click opens the sample, whose window has the panel as a tab, with the first field and the last one.
    first, *_, last = plugin.side_by_side.heatmap_fields(dataset.view())
    different = {plugin.side_by_side.row(sample, first, last)[1] for sample in dataset}
    modal = app.locator("[data-cy=modal]")
    again(app, lambda: (pictures.nth(2).click(timeout=MOMENT), modal.wait_for(timeout=MOMENT)))
    modal.locator("[data-cy=panel-tab-side_by_side]").click()
    inside = modal.locator("[data-cy=panel-content-side_by_side] img")
    until(app, lambda: inside.count() == 1 and inside.get_attribute("src") in different)

    # Beside a sample that was opened in the grid, it goes along to the next.
    show(app, app.app, dataset)
    again(app, lambda: (tab.get_by_title("Close").click(timeout=MOMENT), tab.wait_for(state="detached", timeout=MOMENT)))
    settled(app)
    app.locator("[data-cy=looker]").first.click()
    modal.wait_for()
    modal.locator("[data-cy=panel-tab-side_by_side]").click()
    modal.get_by_title("Split horizontally").first.click()
    app.wait_for_selector("[data-cy=modal] [data-cy=looker] canvas")
    until(app, lambda: inside.count() == 1 and inside.get_attribute("src") in different)
    keep(app, "side-by-side-modal")
    # The App does not hear of the key while its window is being divided. Where it is, its address says.
    before, sample = inside.get_attribute("src"), app.url

    def next_sample():
        app.keyboard.press("ArrowRight")
        app.wait_for_timeout(1000)
        return app.url != sample

    until(app, next_sample)
    until(app, lambda: inside.count() == 1 and inside.get_attribute("src") in different - {before})
    app.keyboard.press("Escape")


def test_closing_the_page_ends_the_run(app, quickstart, clone, plugin):
    # So many that the run is not over before anybody looks, on a fast machine either, and each of them quick, so that what is in
    # flight is soon finished on a busy one.
    everybody = clone(fo.load_dataset(quickstart))
    for _ in range(9):
        everybody.add_collection(fo.load_dataset(quickstart), new_ids=True)
    app.goto(f"{app.app}/datasets/{everybody.name}")
    app.locator("[data-cy=looker] canvas").first.wait_for()
    open_form(app)
    fill(app, 0, "person")
    fill(app, 2, "1")
    untick_default(app)
    submit(app)
    app.get_by_text(re.compile(r"^[1-9]\d* of 300 samples")).wait_for()
    keep(app, "progress")
    # Samples without people count as progress, too: the first heatmap may still be in flight.
    samples = fo.core.odm.get_db_conn()[everybody._sample_collection_name]
    late = time.monotonic() + PATIENCE
    while not samples.find_one({"person_grad_layer_1": {"$ne": None}}):
        assert time.monotonic() < late, "no heatmap was stored"
        time.sleep(0.1)
    runs = [process for process in psutil.process_iter() if everybody.name in " ".join(process.cmdline())]
    assert len(runs) == 1
    app.goto("about:blank")
    runs[0].wait(PATIENCE)
    everybody.reload()
    people = sum(bool(sample.ground_truth.get_mask().any()) for sample in everybody)
    assert 0 < len(everybody.exists("person_grad_layer_1")) < people


def test_a_view_and_a_delegated_run(dataset, clone, settings, tmp_path):
    # Samples of a view; of patches, those that they are cut from.
    boxes = clone(dataset)
    boxes.set_values("boxes", [fo.Detections(detections=[box(), box()]) for _ in boxes])
    patches = boxes.limit(3).to_patches("boxes").skip(4)
    assert len(patches) == 2
    execute(boxes, view=patches, params=params(settings, field="of_patches"))
    boxes.reload()
    assert boxes.exists("of_patches").values("id") == patches.values("sample_id")[:1]

    # The labels that count are those that the view shows, or that the patches are.
    wide = [fo.Detection(label="person", bounding_box=[0.1, 0.1, 0.8, 0.8], confidence=0.1) for _ in boxes]
    boxes.set_values(
        "sure", [fo.Detections(detections=[fo.Detection(label="person", bounding_box=[0.2, 0.2, 0.3, 0.4])]) for _ in boxes]
    )
    boxes.set_values(
        "all", [fo.Detections(detections=[*sample.sure.detections, more]) for sample, more in zip(boxes, wide, strict=True)]
    )
    sure = {"target": "labels:sure", "field": "wanted"}
    execute(boxes, view=boxes.limit(2), params=params(settings, **sure))
    few = F("confidence") != 0.1
    shown = boxes.limit(2).filter_labels("all", few)
    execute(boxes, view=shown, params=params(settings, target="labels:all", field="of_view"))
    cut = boxes.limit(2).to_patches("all").match(F("all.confidence") != 0.1)
    execute(boxes, view=cut, params=params(settings, target="labels:all", field="of_cut"))
    boxes.reload()
    wanted = boxes.exists("wanted").values("wanted.score")
    assert len(wanted) == 2
    assert boxes.exists("of_view").values("of_view.score") == wanted
    assert boxes.exists("of_cut").values("of_cut.score") == wanted
    # A view that cannot be honoured is refused in camflow's words.
    with pytest.raises(ExecutionError, match="changes labels at random"):
        execute(
            boxes, view=boxes.filter_labels("all", F.rand() > 0.5), params=params(settings, target="labels:all", field="random")
        )

    # A run that others wait for: its counts are the result, and a broken sample is one of them.
    broken = boxes.last()
    broken.filepath = str(tmp_path / "gone.jpg")
    broken.save()
    view = boxes.limit(2).concat(boxes.select(broken.id))
    queued = execute(boxes, view=view, params=params(settings, field="delegated"), request_delegation=True)
    assert queued.delegated
    service = DelegatedOperationService()
    log = tmp_path / "delegated.out"
    with log.open("w") as out:
        command = [Path(sys.executable).parent / "fiftyone", "delegated", "launch"]
        env = {**os.environ, "FIFTYONE_DATABASE_URI": fo.config.database_uri}
        launched = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, env=env)
    try:
        until = time.monotonic() + PATIENCE
        while (operation := service.get(queued.result["id"])).run_state not in ("completed", "failed"):
            assert launched.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.5)
    finally:
        launched.terminate()
        launched.wait(30)
    assert operation.run_state == "completed", operation.result
    result = operation.result.result
    assert (result["num_read"], result["num_committed"], result["num_failed"]) == (3, 2, 1)
    assert broken.id in result["summary"] and "gone.jpg" in result["summary"]
    assert operation.status.progress == 1.0 and operation.status.label == "done"
    boxes.reload()
    assert boxes.exists("delegated").values("id") == boxes.limit(2).values("id")


@pytest.fixture(scope="module")
def detector(camflow, tmp_path_factory):
    """A folder with a detector, and its model."""
    saved = folders.save(folders.spread_detr, tmp_path_factory.mktemp("detr") / "detr")
    camflow("export", saved, "--out", saved.parent / "detr.pt2")
    return saved, saved.parent / "detr.pt2"


def box() -> fo.Detection:
    return fo.Detection(label="person", bounding_box=[0.1, 0.1, 0.5, 0.5])


def test_texts_detections_and_slices_are_asked_for(plugin, camflow, settings, dataset, detector, clone, monkeypatch, tmp_path):
    saved, made = detector
    monkeypatch.setenv("CAMFLOW_PLUGIN_MODELS", str(tmp_path))
    monkeypatch.setenv("CAMFLOW_PYTHON", sys.executable)
    tower, detector = tmp_path / "clip.pt2", tmp_path / "detr.pt2"
    shutil.copy(made, detector)
    camflow("export", folders.save(folders.clip, tmp_path / "clip"), "--task", "embedding", "--out", tower)
    few = clone(dataset.limit(2))

    form_module = plugin.form

    def form(model, **more):
        asked = {"model": form_module.OTHER, "model_path": str(model), **more}
        request = {"dataset_name": few.name, "params": asked}
        return form_module.build(foo.ExecutionContext(request_params=request)).type.to_json()["properties"]

    asked = form(tower)
    assert asked["target"]["default"] == "texts" and asked["texts"]["required"] and "classes" not in asked
    asked = form(tower, target="labels:ground_truth")
    assert not asked["texts"]["required"] and not asked["classes"]["required"] and "text_template" in asked
    assert form(tower, texts=["a", "b"])["estimate"]["view"]["label"].startswith("At most 4 heatmaps")
    whole = params(settings, model=form_module.OTHER, model_path=str(tower), target="texts", classes=[], layers=["1"])
    execute(few, params={**whole, "texts": ["a red car, parked", "a dog"], "field": "{class}"})
    few.reload()
    assert few.count("a_red_car__parked") == few.count("a_dog") == 2

    slices = {"slice_height": 64, "slice_width": 96, "overlap_height_ratio": 0.25, "methods": ["layercam"]}
    execute(few, params=params(settings, **slices, field="sliced"))
    few.reload()
    runs = [few.get_run_info(key).config.settings for key in few.list_runs()]
    (asked,) = (run for run in runs if run.get("field") == "sliced")
    given = {"slice-height": "64", "slice-width": "96", "overlap-height-ratio": "0.25"}
    assert asked.items() >= given.items() and few.count("sliced") == 2

    # More measures: what else heatmaps lie on, and whether it matters.
    few.set_values("boxes", [fo.Detections(detections=[box()]) for _ in few])
    request = {"dataset_name": few.name, "params": params(settings, more=True)}
    asked = form_module.build(foo.ExecutionContext(request_params=request)).type.to_json()["properties"]
    assert asked["counterfactuals"]["default"] == "none"
    offered = asked["attention_on"]["type"]["values"]
    assert {"ground_truth", "boxes"} <= set(offered) and not {"filepath", FIELDS[0]} & set(offered)
    assert "predictions" in asked and "eval_key" not in asked
    more = {"more": True, "counterfactuals": "mean", "attention_on": "boxes", "field": "asked", "aug_smooth": False}
    execute(few, params=params(settings, **more, predictions="predicted"))
    few.reload()
    assert (
        few.count("asked.confidence_without_object") == few.count("asked.attended_class") == few.count("predicted.mask_path") == 2
    )

    # A detector's own default, and a heatmap of each of its detections.
    network = transformers.DetrForObjectDetection.from_pretrained(saved).eval()
    boxes = [fo.Detection(label="dog", bounding_box=one.tolist(), confidence=0.9) for one in apart(network, picture(0), 1, 2)]
    Image.fromarray(picture(0)).save(tmp_path / "picture.png")
    few.clear()
    truth = fo.Detections(detections=[fo.Detection(label="dog", bounding_box=boxes[0].bounding_box)])
    few.add_sample(fo.Sample(str(tmp_path / "picture.png"), boxes=fo.Detections(detections=boxes), truth=truth))
    few.evaluate_detections("boxes", gt_field="truth", eval_key="eval")
    asked = form(detector, target="labels:boxes")
    assert asked["methods"]["default"] == asked["layers"]["default"] == [] and "per_detection" in asked
    assert "per_detection" not in form(detector, target="predicted") and "per_detection" not in form(tower, target="labels:boxes")
    each = {"model": form_module.OTHER, "model_path": str(detector), "target": "labels:boxes", "classes": ["dog"], "layers": []}
    assert form(detector, target="labels:boxes", more=True, per_detection=True)["eval_key"]["type"]["values"] == ["eval"]
    execute(few, params={**each, "per_detection": True, "eval_key": "eval"})
    few.reload()
    (field,) = (name for name in few.get_field_schema() if name.endswith("_detections"))
    assert field.startswith("dog_layercam_")
    assert sorted(found.outcome for found in few.first()[field].detections) == ["fp", "tp"]


def test_distributions_are_those_of_the_labels(plugin, dataset, clone):
    measures = plugin.measures
    several = clone(dataset)
    # A sample without a number, and two classes in one field.
    (path, other) = (f"{field}.{MEASURE}" for field in FIELDS)
    several.set_values(path, [None, *dataset.values(path)[1:]])
    several.set_values(f"{FIELDS[1]}.target_class", ["cat", "dog"] * 4)
    view = several.view()

    assert set(FIELDS) <= set(measures.heatmap_fields(view))
    names = measures.names(view)
    assert names[0] == MEASURE and names[-1] == "score" and {"entropy", "pointing_hit", "rank_correlation"} < set(names)
    found = measures.distributions(view.select_fields(FIELDS), MEASURE)
    assert [one.series.label for one in found] == [FIELDS[0], f"{FIELDS[1]}: cat", f"{FIELDS[1]}: dog"]
    everything = several.values(path)[1:], several.values(other)[::2], several.values(other)[1::2]
    for one, values in zip(found, everything, strict=True):
        counts, _ = np.histogram(values, bins=one.edges)
        assert one.counts == counts.tolist() and one.size == len(values)
        width = (one.edges[-1] - one.edges[0]) / measures.BINS
        # Between two samples, a quantile is any number from one to the other.
        low, high = (np.quantile(values, measures.QUANTILES, method=method) for method in ("lower", "higher"))
        assert all(a - width <= q <= b + width for q, a, b in zip(one.quantiles, low, high, strict=True)), one
    (hits,) = measures.distributions(view.select_fields(FIELDS[0]), "pointing_hit")
    truths = several.values(f"{FIELDS[0]}.pointing_hit")
    assert (hits.counts, hits.quantiles) == ([truths.count(False), truths.count(True)], None)
    # The first layer of a run has no layer before it, and an empty view has nothing.
    assert [one.series.field for one in measures.distributions(dataset.select_fields(FIELDS), "rank_correlation")] == [FIELDS[1]]
    assert measures.distributions(view.limit(0), MEASURE) == []

    # The samples behind a bar, and the first ones in order.
    first = found[0].series
    ranked = sorted(everything[0])
    low, high = ranked[2], ranked[5]
    inside = [value for value in everything[0] if low <= value < high]
    assert measures.between(view, first, MEASURE, low, high, last=False).values(path) == inside
    assert measures.between(view, first, MEASURE, low, high, last=True).count() == len(inside) + 1
    assert measures.between(view, hits.series, "pointing_hit", 0.5, 1.5, last=True).count() == truths.count(True)
    assert measures.extreme(view, first, MEASURE, 3, highest=False).values(path) == ranked[:3]
    assert measures.extreme(view, first, MEASURE, 2, highest=True).values(path) == ranked[:-3:-1]

    # A view says whether the panel made it, after it went through a page.
    cat = found[1].series
    made = [
        measures.between(view, cat, MEASURE, *found[1].edges[:2], last=False),
        measures.extreme(view, cat, MEASURE, 2, highest=True),
    ]
    assert made[1].values(f"{FIELDS[1]}.target_class") == ["cat", "cat"]
    for one in made:
        sent = fo.DatasetView._build(several, json.loads(json.dumps(one._serialize())))
        assert measures.is_narrowed(sent, view) and sent.values("id") == one.values("id")
        # Neither what somebody makes of it, nor of another view.
        assert not measures.is_narrowed(sent.limit(1), view)
        assert not measures.is_narrowed(sent, view.limit(1))
    assert measures.is_narrowed(view, view)
    assert not any(measures.is_narrowed(one, view) for one in (view.limit(1), view.match(F(path) > 0), view.exists(path)))


@pytest.fixture(scope="module")
def scenes(dataset, camflow, standin_model, tmp_path_factory):
    """The same pictures, whose heatmaps say what they lie on and what their model misses; one has no such label."""
    copy = dataset.select_fields("ground_truth").clone("plugin-scenes")
    copy.persistent = True
    for number, sample in list(enumerate(copy))[1:]:
        mask = np.ones(sample.ground_truth.mask.shape, np.uint8)
        mask[len(mask) // 2 :] = 2 if number % 2 else 0
        sample["scene"] = fo.Segmentation(mask=mask)
        sample.save()
    copy.mask_targets = {"scene": {1: "$sky.", 2: "road"}}
    copy.save()
    camflow(
        *(
            "annotate",
            "--dataset",
            copy.name,
            "--class",
            "person",
            "--layers",
            "3-4",
            "--device",
            "cpu",
            "--attention-on",
            "scene",
            "--counterfactuals",
            "mean",
        ),
        *("--target", "labels:ground_truth", "--model", standin_model, "--out", tmp_path_factory.mktemp("maps")),
    )
    copy.reload()
    yield copy
    copy.delete()


def test_what_heatmaps_lie_on_is_that_of_the_labels(plugin, scenes, dataset):
    measures = plugin.measures
    view = scenes.view()
    assert measures.names(view)[-1] == "attention" and "attention" not in measures.names(dataset.view())
    found = measures.attention(view, 24)
    assert (
        [one.label for one in found.series] == list(FIELDS) and found.labels == ["$sky.", "road", None] and found.num_hidden == 0
    )
    for row, one in enumerate(found.series):
        for column, label in enumerate(found.labels):
            entries = [entry for of_sample in scenes.values(f"{one.field}.attention") for entry in of_sample or []]
            entries = [entry for entry in entries if entry.label == label]
            assert found.counts[row][column] == len(entries) > 0
            assert found.shares[row][column] == pytest.approx(np.mean([entry.share for entry in entries]))
            assert found.areas[row][column] == pytest.approx(np.mean([entry.area for entry in entries]))
            behind = measures.lying_on(view, one, label)
            assert behind.count() == len(entries) and measures.is_narrowed(behind, view)
    assert measures.attention(view, 1).num_hidden == 1
    (figure,) = plugin.plots.attention(found)
    assert figure["x"] == ["$sky.", "road", "(no class)"] and figure["y"] == list(FIELDS)
    ratio = found.shares[0][0] / found.areas[0][0]
    assert figure["z"][0][0] == pytest.approx(np.log2(ratio)) and figure["text"][0][0].endswith(f"\u00d7{ratio:.1f}")
    empty = measures.attention(view.limit(0), 24)
    assert (empty.labels, plugin.plots.attention(empty)[0]["z"]) == ([], [[], []])


def test_what_a_model_misses_is_that_of_the_labels(plugin, scenes, dataset):
    measures, view = plugin.measures, scenes.view()
    assert measures.COUNTERFACTUALS in measures.names(view) and measures.COUNTERFACTUALS not in measures.names(dataset.view())
    found = measures.confidences(view, 24)
    assert {one.label for one in found.series} == set(FIELDS) and found.counts == [8, 8] and found.num_hidden == 0
    assert found.reliances == sorted(found.reliances, reverse=True)
    for series, means, reliance in zip(found.series, found.means, found.reliances, strict=True):
        wanted = [np.mean(scenes.values(f"{series.field}.{name}")) for name in measures.CONFIDENCES]
        assert means == pytest.approx(wanted)
        costs = [max(0, wanted[0] - one) for one in wanted[1:3]]
        assert reliance == pytest.approx(costs[1] / sum(costs))
    assert measures.confidences(view, 1).num_hidden == 1
    (figure,) = plugin.plots.confidences(found)
    assert figure["x"][0] == "confidence" and figure["x"][-1] == "context<br>reliance" and len(figure["z"][0]) == 5
    assert plugin.plots.confidences(measures.confidences(view.limit(0), 24))[0]["z"] == []
    # Nothing is missed where nobody asked, and a mean of nothing is none.
    few = view.limit(1)
    path = f"{FIELDS[0]}.confidence_without_attended"
    before = few.values(path)
    few.set_values(path, [None])
    shown = measures.confidences(few, 24)
    assert shown.means[[one.field for one in shown.series].index(FIELDS[0])][-1] is None
    few.set_values(path, before)


@pytest.fixture(scope="module")
def evaluated(database, camflow, detector, tmp_path_factory):
    """Three pictures of which an evaluation says what is wrong: of the predictions of each all but the first one are no objects, and one
    object is not predicted."""
    saved, model = detector
    network = transformers.DetrForObjectDetection.from_pretrained(saved).eval()
    made, folder = fo.Dataset("plugin-evaluated", persistent=True), tmp_path_factory.mktemp("evaluated")
    for number in range(3):
        path = folder / f"{number}.png"
        Image.fromarray(picture(number)).save(path)

        def dog(place, **more):
            return fo.Detection(label="dog", bounding_box=np.asarray(place).tolist(), **more)

        *places, unseen = apart(network, picture(number), 1, 3)
        predicted = [dog(place, confidence=0.5 + 0.1 * k) for k, place in enumerate(places)]
        truth = [dog(places[0]), dog(unseen)]
        made.add_sample(
            fo.Sample(str(path), predictions=fo.Detections(detections=predicted), truth=fo.Detections(detections=truth))
        )
    made.evaluate_detections("predictions", gt_field="truth", eval_key="eval")
    for field, more in (("predictions", ()), ("truth", ("--field", "truth_{class}"))):
        asked = ("--target", f"labels:{field}", "--class", "dog", "--per-detection", "--eval-key", "eval", "--device", "cpu")
        camflow("annotate", "--dataset", made.name, "--model", model, *asked, *more, "--out", folder / "maps")
    made.reload()
    yield made
    made.delete()


def test_what_an_evaluation_found_is_that_of_the_labels(plugin, evaluated, dataset):
    measures, view = plugin.measures, evaluated.view()
    assert measures.names(view)[0] == measures.OUTCOME and measures.OUTCOME not in measures.names(dataset.view())
    found = measures.outcomes(view, 24)
    assert found.num_hidden == 0 and measures.outcomes(view, 1).num_hidden == 1
    assert measures.outcomes(view.limit(0), 24).series == []
    by_field = {series.field: number for number, series in enumerate(found.series)}
    assert by_field.keys() == {"dog_layercam_layer_2_detections", "truth_dog_detections"}
    for field, number in by_field.items():
        labels = [one for of_sample in evaluated.values(f"{field}.detections") for one in of_sample or []]
        assert found.rights[number] == sum(one.outcome == "tp" for one in labels) == 3
        for column, (kind, outcome) in enumerate(measures.WRONG.items()):
            wrong = [one for one in labels if one.outcome == outcome]
            assert found.counts[number][column] == len(wrong)
            if wrong:
                assert found.confidences[number][column] == pytest.approx(np.mean([one.confidence for one in wrong]))
                assert found.insides[number][column] == pytest.approx(np.mean([one.energy_inside for one in wrong]))
            else:
                assert found.confidences[number][column] is found.insides[number][column] is None
            # As patches, in order, with what shows them; and after they went through a page.
            patches = measures.wrong(view, found.series[number], kind)
            sent = fo.DatasetView._build(evaluated, json.loads(json.dumps(patches._serialize(), default=str)))
            assert measures.is_narrowed(patches, view) and measures.is_narrowed(sent, view)
            ids = [one.id for one in sorted(wrong, key=lambda one: -one.confidence)]
            assert patches.values(f"{field}.id") == sent.values(f"{field}.id") == ids
            shown = patches.values(f"{field.removesuffix('_detections')}.map_path")
            assert sorted(shown) == sorted(one.map_path for one in wrong)
    # Of a part of the samples.
    few, series = evaluated.limit(1), found.series[by_field["truth_dog_detections"]]
    assert measures.wrong(few, series, "missed objects").count() == 1
    # Without the saved view.
    bare = evaluated.clone()
    bare.delete_saved_views()
    samples = measures.wrong(bare.view(), series, "missed objects")
    assert samples.media_type == "image" and samples.count(f"{series.field}.detections") == 3
    assert measures.is_narrowed(samples, bare.view())
    most = [max(one.confidence for one in labels) for labels in samples.values(f"{series.field}.detections")]
    assert most == sorted(most, reverse=True)
    bare.delete()
    (figure,) = plugin.plots.outcomes(found)
    assert figure["x"] == ["false<br>positives", "missed<br>objects"] and figure["y"] == [one.label for one in found.series]


def test_the_panel_begins_with_what_an_evaluation_found(app, evaluated):
    show(app, app.app, evaluated)
    app.click("[data-cy=new-panel-btn]")
    app.get_by_text("Heatmap measures").click()
    figure = app.locator("[data-cy=panel-content-measures] .js-plotly-plot").last
    until = time.monotonic() + PATIENCE
    while figure.evaluate("plot => plot.data?.[0]?.x?.[1]") != "missed<br>objects" and time.monotonic() < until:
        app.wait_for_timeout(200)
    app.wait_for_timeout(1000)
    keep(app, "outcome")
    # The bar may be too narrow to show how they are ordered.
    in_order, attached = app.get_by_text("SortBy"), {"state": "attached", "timeout": MOMENT}
    again(
        app,
        lambda: (
            app.mouse.click(*cell(figure, "missed<br>objects", "truth_dog_detections")),
            in_order.first.wait_for(**attached),
        ),
    )
    shown(app, 3)
    app.wait_for_timeout(1000)
    keep(app, "outcome-cell")
    app.get_by_role("button", name="Show all").click()
    in_order.first.wait_for(state="detached", timeout=PATIENCE * 1000)
    shown(app, 3)


def test_the_panel_shows_what_a_model_misses(app, scenes):
    show(app, app.app, scenes)
    app.click("[data-cy=new-panel-btn]")
    app.get_by_text("Heatmap measures").click()
    choose(app, "counterfactuals")
    figure = app.locator("[data-cy=panel-content-measures] .js-plotly-plot").last
    until = time.monotonic() + PATIENCE
    while figure.evaluate("plot => plot.data?.[0]?.type") != "heatmap" and time.monotonic() < until:
        app.wait_for_timeout(200)
    app.wait_for_timeout(1000)
    keep(app, "counterfactuals")
    in_order = app.get_by_text("SortBy")
    assert in_order.count() == 0
    # All have it, and they come in order; the bar may be too narrow to show how.
    in_view = {"state": "attached", "timeout": MOMENT}
    again(app, lambda: (app.mouse.click(*cell(figure, "without<br>object", FIELDS[1])), in_order.first.wait_for(**in_view)))
    shown(app, 8)
    keep(app, "counterfactuals-cell")
    app.get_by_role("button", name="Show all").click()
    shown(app, 8)


def test_a_click_on_what_heatmaps_lie_on_shows_these_samples(app, scenes):
    show(app, app.app, scenes)
    app.click("[data-cy=new-panel-btn]")
    app.get_by_text("Heatmap measures").click()
    choose(app, "attention")
    figure = app.locator("[data-cy=panel-content-measures] .js-plotly-plot").last
    until = time.monotonic() + PATIENCE
    while figure.evaluate("plot => plot.data?.[0]?.type") != "heatmap" and time.monotonic() < until:
        app.wait_for_timeout(200)
    # A figure has its numbers a moment before it draws them.
    app.wait_for_timeout(1000)
    keep(app, "attention")
    # On a busy machine a figure may be drawn where the pointer has been already.
    again(app, lambda: (app.mouse.click(*cell(figure, "road", FIELDS[1])), shown(app, 4, timeout=MOMENT)))
    keep(app, "attention-cell")
    app.get_by_role("button", name="Show all").click()
    shown(app, 8)


def test_the_panel_shows_them(app, dataset, plugin):
    show(app, app.app, dataset)
    app.click("[data-cy=new-panel-btn]")
    app.get_by_text("Heatmap measures").click()
    figure = app.locator("[data-cy=panel-content-measures] .js-plotly-plot").last
    wanted = bars(plugin, dataset, "pointing_hit")
    choose(app, "pointing_hit")
    wait_for(app, figure, wanted)
    wanted = bars(plugin, dataset, MEASURE)
    choose(app, MEASURE)
    wait_for(app, figure, wanted)
    keep(app, "panel")

    # The highest bar of the second field.
    before = sum(map(len, list(wanted.values())[: list(wanted).index(FIELDS[1])]))
    bar, height = max(enumerate(wanted[FIELDS[1]]), key=lambda pair: pair[1])
    narrow(app, partial(figure.locator(".point path").nth(before + bar).click, force=True), height)
    keep(app, "bar")
    # The plots are still those of the view before.
    wait_for(app, figure, wanted)
    app.get_by_role("button", name="Show all").click()
    shown(app, 8)

    count = app.get_by_role("spinbutton")
    count.fill("3")
    count.press("Tab")
    narrow(app, app.get_by_role("button", name="Lowest").click, 3)
    keep(app, "lowest")
    wait_for(app, figure, wanted)


def narrow(page, click, count: int) -> None:
    """Clicks, as often as it takes until the grid has this many pictures. A figure has its numbers a moment before it draws them, and
    moves when another one comes to stand above it; what is typed reaches the panel some time after typing ends."""
    again(page, lambda: (click(timeout=MOMENT), shown(page, count, timeout=MOMENT)))


def choose(page, measure: str) -> None:
    """Chooses a measure in the panel. Its list closes when the panel is drawn anew."""
    field = page.locator("[data-cy=panel-content-measures]").get_by_role("combobox").first
    option = page.get_by_role("option", name=measure, exact=True)
    again(page, lambda: (field.click(timeout=MOMENT), option.click(timeout=MOMENT)), leaves="Escape")


def again(page, act, leaves=None) -> None:
    """Does it until it can be done; in between it presses a key."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return act()
        except PlaywrightError:
            if time.monotonic() > until:
                raise
            if leaves:
                page.keyboard.press(leaves)


def cell(figure, column: str, row: str) -> list[float]:
    """Where in the page a field of a table is."""
    place = """(plot, [column, row]) => {
        const {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
        return [box.left + xaxis._offset + xaxis.d2p(column), box.top + yaxis._offset + yaxis.d2p(row)]
    }"""
    return figure.evaluate(place, [column, row])


def beside(page, count: int):
    """The pictures of the panel beside the grid, once there are so many."""
    pictures = page.locator("[data-cy=panel-content-side_by_side] img")
    until(page, lambda: pictures.count() == count)
    return pictures


def pick(page, label: str, value: str) -> None:
    page.locator("[data-cy=panel-content-side_by_side] [role=combobox]").nth(("Left", "Right").index(label)).click(timeout=MOMENT)
    page.get_by_role("option", name=value, exact=True).click(timeout=MOMENT)


def until(page, there) -> None:
    """Waits until something is there."""
    end = time.monotonic() + PATIENCE
    while not there():
        assert time.monotonic() < end, "it did not come"
        page.wait_for_timeout(200)


def bars(plugin, dataset, measure: str) -> dict[str, list[int]]:
    """What the figure should show."""
    return {one.series.label: one.counts for one in plugin.measures.distributions(dataset.view(), measure)}


def wait_for(page, figure, wanted) -> None:
    """Waits until the figure shows this."""
    until = time.monotonic() + PATIENCE
    while (drawn := traces(figure)) != wanted and time.monotonic() < until:
        page.wait_for_timeout(200)
    assert drawn == wanted


def traces(figure) -> dict[str, list[int]]:
    """The bars that a figure has."""
    return dict(figure.evaluate("plot => plot.data.map(trace => [trace.name, trace.y])"))
