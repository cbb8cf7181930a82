"""Heatmaps over their photographs, as the App draws them, in one picture."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

if TYPE_CHECKING:
    import fiftyone as fo

# Of a photograph's longer side, and between two of them; pixels.
SIDE = 360
GAP = 6
# How much of the heatmap is in a pixel.
OPACITY = 0.5
ORIENTATION = 0x0112


class MissingFileError(Exception):
    """A file that a sample or its heatmap names is not there, or no picture."""


def levels(label: fo.Heatmap) -> np.ndarray:
    """The heatmap: uint8 [height, width], 1 to 255, and 0 where the model did not see the image.

    Raises:
        MissingFileError: the label names no file that is there and whole
    """
    if label.map is not None:
        return np.asarray(label.map, np.uint8)
    if not label.map_path:
        raise MissingFileError("the label names no file")
    return np.asarray(_read(label.map_path).convert("L"))


def photograph(path: str, like: np.ndarray | None) -> Image.Image:
    """The photograph, `SIDE` pixels long, turned as `like`: a heatmap may be of the pixels as they are stored, or of the upright image.

    Raises:
        MissingFileError: there is no such file, or it is no image
    """
    image = _read(path)
    try:
        # The format's own way to read less, where it has one.
        image.draft("RGB", (2 * SIDE, 2 * SIDE))
        if like is None or image.getexif().get(ORIENTATION, 1) == 1 or not _is_alike(like, image):
            image = ImageOps.exif_transpose(image)
        image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE))
    except OSError as error:
        raise MissingFileError(f"`{path}` cannot be read: {error}") from error
    return image


def overlay(photo: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """The heatmap over the photograph, in the colours of *jet*; where the model did not see the image, the photograph alone."""
    seen = np.asarray(Image.fromarray(heatmap).resize(photo.size, Image.Resampling.NEAREST)) > 0
    values = np.asarray(Image.fromarray(heatmap).resize(photo.size, Image.Resampling.BILINEAR), np.float32)
    mixed = np.asarray(photo, np.float32) * (1 - OPACITY) + jet((values - 1).clip(0) / 254) * OPACITY
    return Image.fromarray(np.where(seen[..., None], mixed, np.asarray(photo)).round().astype(np.uint8))


def jet(values: np.ndarray) -> np.ndarray:
    """Colours of values from 0 to 1: float32 [..., 3], 0 to 255."""
    distance = np.abs(4 * values[..., None] - np.array([3, 2, 1], np.float32))
    return (1.5 - distance).clip(0, 1).astype(np.float32) * 255


def in_a_row(pictures: list[Image.Image]) -> str:
    """Pictures of one size beside each other, as an URL that holds them."""
    width, height = pictures[0].size
    row = Image.new("RGBA", (len(pictures) * (width + GAP) - GAP, height))
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (width + GAP), 0))
    file = io.BytesIO()
    row.save(file, "WEBP", quality=88)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _is_alike(heatmap: np.ndarray, image: Image.Image) -> bool:
    """Whether the heatmap has the proportions of the pixels as they are stored, rather than turned."""
    height, width = heatmap.shape
    stored = image.width / image.height
    return bool(abs(np.log(width / height / stored)) <= abs(np.log(width / height * stored)))


def _read(path: str) -> Image.Image:
    if not Path(path).is_file():
        raise MissingFileError(f"there is no file `{path}`")
    try:
        return Image.open(path)
    except OSError as error:
        raise MissingFileError(f"`{path}` cannot be read: {error}") from error
