"""Heatmap labels as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .process import CamflowError

if TYPE_CHECKING:
    import fiftyone as fo

LEVELS = 255


def load(label: fo.Heatmap) -> Any:
    """The heatmap of a label that camflow made.

    Args:
        label: the value of a heatmap field of a sample

    Returns:
        float32 [height, width], from 0 to 1: the exact values of the `.npy` file where there is one, else the 256 levels of the
        picture, which are within 1/510 of them

    Raises:
        CamflowError: the label names no file, or none that is there
    """
    import numpy as np

    path = label.npy_path if label.has_field("npy_path") else None
    if path and Path(path).is_file():
        return np.load(path).astype(np.float32)
    if label.map is not None:
        return np.asarray(label.map, np.float32) / LEVELS
    if label.map_path and Path(label.map_path).is_file():
        from PIL import Image

        return np.asarray(Image.open(label.map_path).convert("L"), np.float32) / LEVELS
    named = label.map_path or path
    raise CamflowError(
        f"there is no file `{named}` of the heatmap\nhint: `camflow check` looks for all of the dataset's"
        if named
        else "the label names no file and holds no map"
    )
