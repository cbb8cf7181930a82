"""What a person sees: camflow's heatmaps in the real FiftyOne App, in a real browser.

A label that FiftyOne can load may still draw nothing: only the App decodes the pictures and applies `range`. So its server is
started on the private database, a headless Chromium ticks a heatmap field in the sidebar, and the screenshots with and
without it are compared where the pictures are.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import fiftyone as fo
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeoutError
from playwright.sync_api import sync_playwright

SHOWN = "person_grad_layer_4"
NUM_PICTURES = 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    # Chromium's own sandbox does not start for root and in most containers; the only page it opens is ours.
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# Seconds. Two busy cores without a GPU take their time to draw.
PATIENCE = 240


@pytest.fixture
def dataset(quickstart, camflow, standin_model, tmp_path):
    """A few pictures of people with heatmaps, coloured by value."""
    copy = fo.load_dataset(quickstart).match_tags("person").limit(NUM_PICTURES).clone("people")
    camflow(
        *("annotate", "--dataset", copy.name, "--class", "person", "--layers", "1-4", "--device", "cpu"),
        *("--target", "labels:resnet50_seg", "--model", standin_model, "--out", tmp_path / "maps"),
    )
    copy.reload()
    assert len(copy.exists(SHOWN)) == NUM_PICTURES
    copy.app_config.color_scheme = fo.ColorScheme(color_by="value", opacity=0.6)
    copy.save()
    yield copy
    copy.delete()


@pytest.fixture
def server(database, tmp_path):
    """The App's own server on the private database; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, log = f"http://127.0.0.1:{port}", tmp_path / "server.out"
    command = [sys.executable, "-m", "fiftyone.server.main", "--address", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "FIFTYONE_DATABASE_URI": database, "FIFTYONE_APP_COLORSCALE": "jet"}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    until = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"the App's server did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def pictures(page) -> list[np.ndarray]:
    """What is drawn in each picture of the grid."""
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)
    boxes = page.eval_on_selector_all(
        "[data-cy=looker] canvas",
        "all => all.map(c => c.getBoundingClientRect()).map(b => [b.top, b.left, b.bottom, b.right])",
    )
    return [shot[int(np.ceil(t)) : int(b), int(np.ceil(left)) : int(right)] for t, left, b, right in sorted(boxes)]


def difference(before: list[np.ndarray], after: list[np.ndarray]) -> float:
    """The smallest share, over the pictures, of pixels that differ by more than rounding."""
    assert len(before) == len(after) == NUM_PICTURES
    return min((np.abs(a - b) > 3).any(axis=2).mean() for a, b in zip(before, after, strict=True))


def test_the_app_draws_the_heatmaps(server, dataset, tmp_path):
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path, f"no {' or '.join(BROWSERS[:3])} on the PATH: run `sudo apt-get install chromium`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1400, "height": 700})
        page.goto(f"{server}/datasets/{dataset.name}", timeout=PATIENCE * 1000)
        drawn = f"document.querySelectorAll('[data-cy=looker] canvas').length == {NUM_PICTURES}"
        page.wait_for_function(drawn, timeout=PATIENCE * 1000)
        try:
            # A new profile is shown an advertisement, over the pictures.
            page.get_by_text("Dismiss", exact=True).click(timeout=15_000)
        except PlaywrightTimeoutError:
            pass
        page.mouse.move(700, 2)

        # Without the field, nothing moves: what changes later is the field's doing.
        until = time.monotonic() + PATIENCE
        off = pictures(page)
        while True:
            page.wait_for_timeout(3000)
            off, before = pictures(page), off
            still = max((np.abs(a - b) > 3).any(axis=2).mean() for a, b in zip(off, before, strict=True))
            if still == 0:
                break
            assert time.monotonic() < until, f"the grid never came to rest: {still:.1%} still changes"

        page.click(f"[data-cy=checkbox-{SHOWN}]")
        page.mouse.move(700, 2)
        until = time.monotonic() + PATIENCE
        while (share := difference(off, pictures(page))) < 0.3 and time.monotonic() < until:
            page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path / "on.png")
        browser.close()
    print(f"with {SHOWN} at least {share:.1%} of each picture differ")
    assert share >= 0.3, "the heatmaps do not show"
