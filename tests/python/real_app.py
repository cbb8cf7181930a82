"""The real FiftyOne App, its server on a private database, in a real browser without a screen."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import sync_playwright

FLAGS = (
    # Chromium's own sandbox does not start for root and in most containers; the only page it opens is ours.
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Web fonts and the like: the test neither needs nor waits for the internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Colours of a pixel that differ by less are the same: canvas scaling may round differently.
ROUNDING = 3
# Seconds. Without a GPU, on two busy cores, drawing eight heatmaps takes some.
PATIENCE = 180
# Milliseconds, after which something is tried once more.
MOMENT = 20_000


@contextmanager
def served(database, log, **settings: str):
    """The App's own server; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "fiftyone.server.main", "--address", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "FIFTYONE_DATABASE_URI": database, **settings}
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=env)
    try:
        until = time.monotonic() + PATIENCE
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


@contextmanager
def browsed(chromium, width: int, height: int):
    """A page of a browser. Its profile is a new one each time, and gone afterwards."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


def show(page, url: str, dataset) -> None:
    """Opens the dataset's grid; all its pictures are there then."""
    page.goto(f"{url}/datasets/{dataset.name}")
    shown(page, len(dataset))


def dismiss(page) -> None:
    """Takes away the advertisement that every new profile is shown, over the pictures."""
    page.get_by_text("Dismiss", exact=True).click()


def shown(page, count: int, timeout: float | None = None) -> None:
    """Waits until the grid has this many pictures, `timeout` milliseconds if not as long as for everything."""
    page.wait_for_function(f"document.querySelectorAll('[data-cy=looker] canvas').length == {count}", timeout=timeout)


def leave(page) -> None:
    """Takes the pointer away from everything that looks different under it, pictures above all."""
    page.mouse.move(700, 2)


def tick(page, field: str, inside: str = "") -> None:
    page.click(f"{inside} [data-cy=checkbox-{field}]")
    leave(page)


def ticked(page, field: str) -> None:
    """Waits until the field is ticked in the sidebar."""
    try:
        page.wait_for_selector(f"[data-cy=checkbox-{field}] input:checked", state="attached")
    except PlaywrightTimeout:
        boxes = "all => all.map(box => [box.closest('[data-cy]').dataset.cy, box.checked])"
        pytest.fail(f"{field} is not ticked among {page.eval_on_selector_all('[data-cy^=checkbox-] input', boxes)}")


def screenshot(page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(int)


def settled(page, done=lambda shot: True) -> np.ndarray:
    """A screenshot after which nothing has moved for two seconds, and that is `done`."""
    until = time.monotonic() + PATIENCE
    last, since = screenshot(page), time.monotonic()
    while True:
        page.wait_for_timeout(400)
        shot = screenshot(page)
        # The App keeps a wheel turning in the tab's title at times; what counts is in the canvases.
        # Past `until` the assertions of the test say what is missing.
        late = time.monotonic() > until
        if not late and any(not same(pixels, last[box]) for box, pixels in canvases(page, shot)):
            last, since = shot, time.monotonic()
        elif late or (time.monotonic() - since > 2 and done(shot)):
            return shot


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and bool((np.abs(a - b) <= ROUNDING).all())


def canvases(page, shot):
    """Where the pictures are drawn, in the order of the samples, and their pixels in the screenshot."""
    scope = "[data-cy=modal] " if page.locator("[data-cy=modal]").count() else ""
    boxes = page.eval_on_selector_all(
        f"{scope}[data-cy=looker] canvas",
        "all => all.map(c => c.getBoundingClientRect()).map(b => [b.top, b.left, b.bottom, b.right])",
    )
    found = []
    for top, left, bottom, right in sorted(boxes):
        # Whole pixels only.
        box = (slice(int(np.ceil(top)), int(bottom)), slice(int(np.ceil(left)), int(right)))
        found.append((box, shot[box]))
    return found


def changed(page, off, on):
    """Per canvas, which pixels are not what they were."""
    return [(np.abs(after - off[box]) > ROUNDING).any(axis=2) for box, after in canvases(page, on)]
