"""Image and mask files of all kinds: camflow's pixels are Pillow's and OpenCV's, or both refuse, or the reason is listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "lab"))

from images import ours


@pytest.fixture(scope="module")
def pixels() -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = target / "debug" / "examples" / "pixels"
    if not path.is_file():
        pytest.fail(f"no {path}: run `cargo build --examples`")
    return path


def test_files_of_all_kinds_are_read_as_pillow_and_opencv_read_them(pixels):
    command = [sys.executable, ROOT / "scripts" / "lab" / "images.py", "--pixels", pixels, "--damage", "9"]
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True, timeout=600)
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 0 and last.endswith(", 0 other"), done.stdout + done.stderr
    counts = dict(reversed(part.split(" ", 1)) for part in last.split(": ")[1].split(", "))
    assert int(counts["equal"]) > 1000 and int(counts["refused by both"]) > 500, last


def test_instance_masks_have_the_bytes_that_fiftyone_draws(pixels, tmp_path):
    """How they are drawn is compared in test_targets.py."""
    import cv2
    from fiftyone.core.labels import Detection

    random = np.random.default_rng(3)
    masks = {
        "black and white.png": (random.random((9, 7)) > 0.5).astype(np.uint8) * 255,
        "ones.png": (random.random((9, 7)) > 0.5).astype(np.uint8),
        "soft.png": random.integers(0, 256, (9, 7)).astype(np.uint8),
        "sixteen.png": (random.random((9, 7)) > 0.5).astype(np.uint16) * 65535,
        "soft.tif": random.integers(0, 256, (9, 7)).astype(np.uint8),
        "black and white.bmp": (random.random((9, 7)) > 0.5).astype(np.uint8) * 255,
    }
    paths = [tmp_path / name for name in masks]
    for path, mask in zip(paths, masks.values(), strict=True):
        cv2.imwrite(str(path), mask)
    for path, mine in zip(paths, ours(pixels, [("instance", path) for path in paths]), strict=True):
        theirs = np.asarray(Detection(bounding_box=[0, 0, 1, 1], mask_path=str(path)).get_mask(), dtype=np.uint8)
        assert np.array_equal(mine, theirs), path
        assert not isinstance(mine, str), mine


def test_what_is_no_image_is_called_by_its_name(pixels, tmp_path):
    """As images and as masks."""
    files = {
        "page.jpg": (b"<!doctype html><title>403</title>", "web page"),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
        "film.png": (b"\0\0\0\x18ftypmp42\0\0\0\0", "video"),
        "empty.png": (b"", "empty"),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    requests = [(kind, tmp_path / name) for name in files for kind in ("image", "mask")]
    for (_, path), answer in zip(requests, ours(pixels, requests), strict=True):
        assert isinstance(answer, str) and files[path.name][1] in answer, answer
