"""What a person sees of the heatmaps of single detections: the saved view in the real FiftyOne App, in a real browser.

With `CAMFLOW_SCREENSHOT=FILE` what the view shows is kept there: that is how docs/detections.png was made.
"""

from __future__ import annotations

import os

import fiftyone as fo
import hugging_face_folders as folders
import numpy as np
import pytest
import transformers
from PIL import Image, ImageFilter
from real_app import PATIENCE, browsed, canvases, changed, dismiss, leave, served, settled, show, shown, tick
from small_detector import SIZE, apart, picture

FIELD = "dog_layercam_layer_2_detections"
SHOWN = "dog_layercam_layer_2"
# Detections of a picture.
QUERIES = 3


@pytest.fixture(scope="module")
def dataset(database, camflow, tmp_path_factory):
    """Two pictures with three detections each, and a heatmap for each."""
    folder = tmp_path_factory.mktemp("app")
    saved = folders.save(folders.spread_detr, folder / "detr")
    camflow("export", saved, "--out", folder / "detr.pt2")
    detector = transformers.DetrForObjectDetection.from_pretrained(saved).eval()
    made = fo.Dataset("single-detections", persistent=True)
    for number in range(2):
        path = folder / f"{number}.png"
        Image.fromarray(picture(number)).save(path)
        boxes = apart(detector, picture(number), 1, QUERIES)
        detections = [fo.Detection(label="dog", bounding_box=box.tolist()) for box in boxes]
        made.add_sample(fo.Sample(str(path), truth=fo.Detections(detections=detections)))
    made.compute_metadata()
    camflow(
        *("annotate", "--dataset", made.name, "--model", folder / "detr.pt2", "--target", "labels:truth", "--class", "dog"),
        *("--out", folder / "maps", "--device", "cpu", "--per-detection"),
    )
    made.reload()
    yield made
    made.delete()


@pytest.fixture
def server(database, tmp_path):
    """The App as anybody starts it."""
    with served(database, tmp_path / "server.out", FIFTYONE_APP_GRID_ZOOM="8") as url:
        yield url


@pytest.fixture
def page(chromium, server, dataset):
    with browsed(chromium, width=1400, height=620) as page:
        show(page, server, dataset)
        dismiss(page)
        leave(page)
        yield page


def placed(path: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A map as the App fits it into a canvas, as large as it goes and in the middle, and the largest value near each pixel; -1
    outside."""
    height, width = shape
    fit = min(height / SIZE[0], width / SIZE[1])
    inner = round(SIZE[1] * fit), round(SIZE[0] * fit)
    stored, found = Image.open(path), []
    for one in (stored, stored.filter(ImageFilter.MaxFilter(5))):
        whole = Image.new("I", (width, height), -1)
        scaled = one.resize(inner, Image.Resampling.NEAREST).convert("I")
        whole.paste(scaled, ((width - inner[0]) // 2, (height - inner[1]) // 2))
        found.append(np.asarray(whole))
    return found[0], found[1]


def tints(shot: np.ndarray, path: str) -> tuple[float, float]:
    """Red over blue where a map is hot, and where there is nothing."""
    values, nearby = placed(path, shot.shape[:2])
    red = shot[..., 0] - shot[..., 2]
    return float(red[values > 160].mean()), float(red[(nearby >= 0) & (nearby < 32)].mean())


def like(shot: np.ndarray, path: str) -> float:
    """How red over blue goes with a map, over the image."""
    values, _ = placed(path, shot.shape[:2])
    red, image = shot[..., 0] - shot[..., 2], values >= 0
    return float(np.corrcoef(red[image], values[image])[0, 1])


def test_the_saved_view_draws_each_detection_with_its_own_heatmap(page, server, dataset, tmp_path):
    view = dataset.load_saved_view(FIELD)
    paths = view.values(f"{FIELD}.map_path")
    assert len(set(paths)) == 2 * QUERIES
    page.goto(f"{server}/datasets/{dataset.name}?view={FIELD.replace('_', '-')}")
    shown(page, 2 * QUERIES)
    leave(page)

    def all_hot(shot):
        drawn = [pixels for _, pixels in canvases(page, shot)]
        return len(drawn) == len(paths) and all(tints(pixels, path)[0] > 40 for pixels, path in zip(drawn, paths, strict=True))

    shot = settled(page, all_hot)
    Image.fromarray(shot.astype(np.uint8)).save(tmp_path / "view.png")
    if kept := os.environ.get("CAMFLOW_SCREENSHOT"):
        Image.fromarray(shot.astype(np.uint8)).quantize(256).save(kept, optimize=True)
    for field in (FIELD, SHOWN):
        assert page.locator(f"[data-cy=checkbox-{field}] input").is_checked(), field
    drawn = [pixels for _, pixels in canvases(page, shot)]
    assert len(drawn) == len(paths)
    for number, (pixels, path) in enumerate(zip(drawn, paths, strict=True)):
        hot, cold = tints(pixels, path)
        print(f"patch {number}: red over blue by {hot:.0f} where its map is hot, {cold:.0f} where there is nothing")
        assert hot > 40 and cold < -40
        # It is its own map, not that of another detection of the picture.
        first = number // QUERIES * QUERIES
        others = [other for other in paths[first : first + QUERIES] if other != path]
        likeness = [like(pixels, one) for one in (path, *others)]
        print(f"patch {number}: correlation {likeness[0]:.2f} with its map, at most {max(likeness[1:]):.2f} with others")
        assert likeness[0] > max(likeness[1:]) + 0.1

    # One of them alone, large.
    page.locator("[data-cy=looker]").first.click()
    page.wait_for_selector("[data-cy=modal] [data-cy=looker] canvas", timeout=PATIENCE * 1000)
    leave(page)

    def much_red(shot):
        (_, pixels), *_ = canvases(page, shot)
        return (pixels[..., 0] - pixels[..., 2] > 100).mean() > 0.01

    on = settled(page, much_red)
    Image.fromarray(on.astype(np.uint8)).save(tmp_path / "single.png")
    assert much_red(on)
    # It is the heatmap that paints it.
    tick(page, SHOWN, "[data-cy=modal]")
    off = settled(page, lambda shot: changed(page, on, shot)[0].mean() > 0.2)
    assert changed(page, on, off)[0].mean() > 0.2


def test_the_samples_show_boxes_without_an_error(page, dataset, tmp_path):
    """The App checks declarations of labels for its own ends, and tells what it does not know in a red box over the pictures."""
    shot = settled(page)
    Image.fromarray(shot.astype(np.uint8)).save(tmp_path / "samples.png")
    page.wait_for_timeout(3000)
    assert page.get_by_text("invalid label schema").count() == 0
    assert page.locator(f"[data-cy=checkbox-{FIELD}] input").is_checked()
