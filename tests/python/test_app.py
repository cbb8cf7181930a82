"""What a person sees: camflow's heatmaps in the real FiftyOne App, in a real browser.

A label that FiftyOne can load may still draw nothing, or nonsense: only the App decodes the pictures and applies
`range`. So its server is started on the private database, a headless Chromium ticks fields in the sidebar, and the
screenshots with and without them are compared pixel by pixel with the heatmaps on disk.

With `CAMFLOW_SCREENSHOT=FILE` the grid with heatmaps is kept there too: that is how docs/app.png was made.
"""

from __future__ import annotations

import os
from pathlib import Path

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image, ImageFilter
from real_app import PATIENCE, browsed, canvases, changed, dismiss, leave, served, settled, show, tick, ticked

SHOWN = "person_grad_layer_4"
EMPTY = "person_grad_layer_9"
# All three people, alone and in pairs. Without those the App turns by their EXIF data, as FiftyOne's models and camflow
# take the pixels as they are stored.
PICTURES = ("000", "003", "007", "011", "012", "016", "021", "027")


@pytest.fixture(scope="module")
def dataset(quickstart, camflow, standin_model, tmp_path_factory):
    """Eight pictures of people, with heatmaps."""
    source = fo.load_dataset(quickstart)
    chosen = [s.id for s in source if Path(s.filepath).stem in PICTURES]
    assert len(chosen) == len(PICTURES)
    copy = source.select(chosen).clone("people")
    camflow(
        *("annotate", "--dataset", copy.name, "--class", "person", "--layers", "1-4", "--device", "cpu"),
        *("--target", "labels:resnet50_seg", "--model", standin_model, "--out", tmp_path_factory.mktemp("maps")),
        # Nothing is ticked before the tests do it.
        "--no-app-config",
    )
    copy.reload()
    # By value: hot is red and cold is blue, instead of one colour per field.
    copy.app_config.color_scheme = fo.ColorScheme(color_by="value", opacity=0.5)
    copy.save()
    yield copy
    copy.delete()


@pytest.fixture
def empty_field(dataset):
    """A heatmap field that no sample has anything in: it goes the same way through the App."""
    dataset.add_sample_field(EMPTY, fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    yield EMPTY
    dataset.delete_sample_field(EMPTY)


@pytest.fixture
def server(database, tmp_path):
    """The App's own server on the private database; its URL. It remembers what a page had open, so each test has one."""
    # A scale that the dataset names reaches the browser too late for its first paint; this one is there at once.
    with served(database, tmp_path / "server.out", FIFTYONE_APP_COLORSCALE="jet", FIFTYONE_APP_GRID_ZOOM="8") as url:
        yield url


@pytest.fixture
def page(chromium, server, dataset):
    """The dataset's grid, all its pictures there and no field ticked."""
    with browsed(chromium, width=1400, height=620) as page:
        show(page, server, dataset)
        dismiss(page)
        leave(page)
        yield page


def heatmap(sample, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The stored map as the App fits it into a canvas, as large as it goes and in the middle; -1 outside.

    The second is the largest value near each pixel: a canvas that shows the map smaller mixes neighbours.
    """
    fit = min(height / sample.metadata.height, width / sample.metadata.width)
    inner = round(sample.metadata.width * fit), round(sample.metadata.height * fit)
    stored = Image.open(sample[SHOWN].map_path)
    # Two pixels of the canvas to each side, in pixels of the map.
    reach = max(1, round(2 * stored.width / inner[0]))
    placed = []
    for picture in (stored, stored.filter(ImageFilter.MaxFilter(2 * reach + 1))):
        whole = Image.new("I", (width, height), -1)
        whole.paste(
            picture.resize(inner, Image.Resampling.NEAREST).convert("I"),
            ((width - inner[0]) // 2, (height - inner[1]) // 2),
        )
        placed.append(np.asarray(whole))
    return placed[0], placed[1]


def check_drawn(where, samples, differs) -> None:
    """Every map changes its picture, where it is hot as where there is nothing: this model sees all of an image."""
    assert len(differs) == len(samples)
    for sample, pixels in zip(samples, differs, strict=True):
        values, _ = heatmap(sample, *pixels.shape)
        hot, cold = pixels[values > 64], pixels[values == 1]
        share = pixels[values >= 0].mean()
        print(
            f"{where} {Path(sample.filepath).name}: {share:.1%} of the picture differ,"
            f" {hot.mean():.1%} of {hot.size} hot pixels, {cold.mean():.1%} of {cold.size} where there is nothing"
        )
        assert share > 0.95, "no holes"
        assert hot.size > 500 and hot.mean() > 0.95
        assert cold.size > 50 and cold.mean() > 0.9


def test_heatmaps_are_drawn_over_their_images(page, dataset, tmp_path):
    samples = list(dataset)
    off = settled(page)
    Image.fromarray(off.astype(np.uint8)).save(tmp_path / "grid-off.png")

    def all_drawn(shot):
        return all(pixels.mean() > 0.2 for pixels in changed(page, off, shot))

    tick(page, SHOWN)
    on = settled(page, all_drawn)
    Image.fromarray(on.astype(np.uint8)).save(tmp_path / "grid-on.png")
    if kept := os.environ.get("CAMFLOW_SCREENSHOT"):
        # A quarter of the size, and hardly to be told apart.
        Image.fromarray(on.astype(np.uint8)).quantize(256).save(kept, optimize=True)
    check_drawn("grid", samples, changed(page, off, on))

    def nothing_drawn(shot):
        return not any(pixels.any() for pixels in changed(page, off, shot))

    tick(page, SHOWN)
    assert nothing_drawn(settled(page, nothing_drawn)), "unticking takes the heatmaps away"


def test_a_single_sample_is_drawn_too(page, dataset, tmp_path):
    settled(page)
    page.locator("[data-cy=looker]").first.click()
    page.wait_for_selector("[data-cy=modal] [data-cy=looker] canvas", timeout=PATIENCE * 1000)
    leave(page)
    off = settled(page)
    Image.fromarray(off.astype(np.uint8)).save(tmp_path / "sample-off.png")

    tick(page, SHOWN, "[data-cy=modal]")
    on = settled(page, lambda shot: changed(page, off, shot)[0].mean() > 0.2)
    Image.fromarray(on.astype(np.uint8)).save(tmp_path / "sample-on.png")
    check_drawn("sample", [dataset.first()], changed(page, off, on))


def test_a_field_without_heatmaps_draws_nothing(empty_field, page, dataset):
    off = settled(page)
    tick(page, empty_field)
    # It took: an unticked box would draw nothing either.
    ticked(page, empty_field)
    # Longer than heatmaps take here.
    page.wait_for_timeout(10_000)
    nothing = settled(page)
    assert not any(pixels.any() for pixels in changed(page, off, nothing))

    # And the field has not merely broken the page.
    tick(page, SHOWN)
    on = settled(page, lambda shot: all(pixels.mean() > 0.2 for pixels in changed(page, off, shot)))
    check_drawn("beside an empty field", list(dataset), changed(page, off, on))


@pytest.fixture
def as_left(dataset, camflow, standin_model, tmp_path):
    """The same pictures without heatmaps and settings; jobs then leave them as a user would find them."""
    shown = dataset.app_config.color_scheme

    def annotate(*flags) -> fo.Dataset:
        dataset.delete_sample_fields(list(dataset.get_field_schema(embedded_doc_type=fo.Heatmap)))
        dataset.app_config.color_scheme = dataset.app_config.active_fields = dataset.app_config.sidebar_groups = None
        dataset.save()
        camflow(
            *("annotate", "--dataset", dataset.name, "--class", "person", "--layers", "1-4", "--device", "cpu"),
            *("--target", "labels:resnet50_seg", "--model", standin_model, "--out", tmp_path / "maps", *flags),
        )
        dataset.reload()
        return dataset

    yield annotate
    dataset.app_config.active_fields = dataset.app_config.sidebar_groups = None
    dataset.app_config.color_scheme = shown
    dataset.save()


@pytest.fixture
def plain_server(database, tmp_path):
    """The App as anybody starts it."""
    with served(database, tmp_path / "server.out", FIFTYONE_APP_GRID_ZOOM="8") as url:
        yield url


def tint(samples, shot, page, color) -> list[tuple[float, float]]:
    """Of each picture, how much of a colour there is where its map is hot, and where there is nothing."""
    found = []
    for sample, (_, pixels) in zip(samples, canvases(page, shot), strict=True):
        values, nearby = heatmap(sample, *pixels.shape[:2])
        found.append((color(pixels)[values > 160].mean(), color(pixels)[(nearby >= 0) & (nearby < 16)].mean()))
    return found


def red(pixels):
    """Red over blue: what jet paints where much is, and the other way round where nothing is."""
    return pixels[..., 0] - pixels[..., 2]


def magenta(pixels):
    return (pixels[..., 0] + pixels[..., 2]) / 2 - pixels[..., 1]


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_new_heatmaps_explain_themselves_at_first_sight(as_left, chromium, plain_server, theme, tmp_path):
    """Without any setting of the user's, the deepest layer is ticked, blue is nothing and red is much, in grid and modal."""
    samples = list(dataset := as_left())
    with browsed(chromium, width=1400, height=620) as page:
        # Where the App keeps what somebody chose in it.
        page.add_init_script(f"localStorage.setItem('mui-mode', '{theme}')")
        show(page, plain_server, dataset)
        dismiss(page)
        leave(page)
        on = settled(page, lambda shot: all(hot > 40 for hot, _ in tint(samples, shot, page, red)))
        Image.fromarray(on.astype(np.uint8)).save(tmp_path / "grid.png")
        for sample, (hot, cold) in zip(samples, tint(samples, on, page, red), strict=True):
            print(f"grid {Path(sample.filepath).name}: red over blue by {hot:.0f} where hot, {cold:.0f} where there is nothing")
            assert hot > 40 and cold < -40
        assert (on[2, 2].mean() > 128) == (theme == "light"), "the theme"
        groups = page.locator("[data-cy^=sidebar-group]").all_inner_texts()
        fields = [SHOWN, *(f"person_grad_layer_{layer}" for layer in (1, 2, 3))]
        boxes = {field: page.locator(f"[data-cy=checkbox-{field}] input").is_checked() for field in fields}
        assert boxes == {field: field == SHOWN for field in fields}, groups

        page.locator("[data-cy=looker]").first.click()
        page.wait_for_selector("[data-cy=modal] [data-cy=looker] canvas")
        leave(page)
        on = settled(page, lambda shot: tint(samples[:1], shot, page, red)[0][0] > 40)
        Image.fromarray(on.astype(np.uint8)).save(tmp_path / "sample.png")
        [(hot, cold)] = tint(samples[:1], on, page, red)
        assert hot > 40 and cold < -40, (hot, cold)


def test_one_colour_for_each_field_is_an_option(as_left, chromium, plain_server, tmp_path):
    """It glows magenta, and what the user's own labels look like is not changed."""
    samples = list(dataset := as_left("--app-colors", "field"))
    assert dataset.app_config.color_scheme.color_by is None
    with browsed(chromium, width=1400, height=620) as page:
        show(page, plain_server, dataset)
        dismiss(page)
        leave(page)
        on = settled(page, lambda shot: all(hot > 60 for hot, _ in tint(samples, shot, page, magenta)))
        Image.fromarray(on.astype(np.uint8)).save(tmp_path / "grid.png")
        for hot, cold in tint(samples, on, page, magenta):
            assert hot > 60 and hot > cold + 40
