"""Heatmap labels as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .process import CamflowError

if TYPE_CHECKING:
    import fiftyone as fo

LEVELS = 255
# pytorch_grad_cam's guard against division by zero.
EPSILON = 1e-7
MEND = "`camflow check` looks for all of the dataset's, and the next run makes damaged ones again"


def load(label: fo.Heatmap | fo.Detection | None) -> Any:
    """The heatmap of a label that camflow made.

    Args:
        label: the value of a heatmap field of a sample, or a detection of `annotate --per-detection`, which has a heatmap of its own

    Returns:
        float32 [height, width], from 0 to 1: the exact values (within 1e-6) where the label has a `.npy` file or holds the map itself,
        else the levels of the picture, which are within 1/510 of them, and 0 below 1/170

    Raises:
        CamflowError: there is no label, or it is no heatmap; it names no file, or none that is there and whole
    """
    import numpy as np

    if label is None:
        raise CamflowError("the sample has no heatmap in this field\nhint: `dataset.exists(FIELD)` has the samples with one")

    if not hasattr(label, "map_path"):
        raise CamflowError(
            f"a {type(label).__name__} is no heatmap\nhint: give the value of a heatmap field, `sample[FIELD]`; "
            "`dataset.get_field_schema(embedded_doc_type=fo.Heatmap)` has these fields"
        )
    path = getattr(label, "npy_path", None)
    if path and Path(path).is_file():
        try:
            content = np.load(path)
        except (OSError, ValueError) as error:
            raise CamflowError(f"`{path}` of the heatmap cannot be read: {error}\nhint: {MEND}") from error
        return upsample(content.astype(np.float32), getattr(label, "upsampling", None) or ())
    if getattr(label, "map", None) is not None:
        return np.asarray(label.map, np.float32)
    picture = getattr(label, "map_path", None)
    if picture and Path(picture).is_file():
        from PIL import Image

        levels = np.asarray(Image.open(picture).convert("L"), np.float32)
        # A picture's 0 is what the model did not see, so that 1 is also what it has no attention for.
        return np.where(levels > 1, levels, 0).astype(np.float32) / LEVELS
    named = picture or path
    raise CamflowError(
        f"there is no file `{named}` of the heatmap\nhint: {MEND}" if named else "the label names no file and holds no map"
    )


def upsample(layer_map: Any, upsampling: Sequence[int]) -> Any:
    """The heatmap of what its `.npy` file holds.

    Args:
        layer_map: float32 [rows, columns], from 0 to 1, at the layer's own resolution
        upsampling: the label's attribute of that name. Height and width to resize the map to; then, where the model saw only a part of
            the image, height and width of the resized image that the part was cut out of, and the part's first row and column in it;
            then, for heatmaps of the image's size, height and width of the image. Nothing for a file that holds the heatmap itself

    Returns:
        float32 [height, width], from 0 to 1
    """
    import numpy as np

    if not upsampling:
        return layer_map
    height, width, *part = map(int, upsampling)
    heatmap = _resize(layer_map, height, width)
    heatmap = heatmap - heatmap.min()
    heatmap = heatmap / (heatmap.max() + np.float32(EPSILON))
    if not part:
        return heatmap
    frame_height, frame_width, top, left, *image = part
    frame = np.zeros((frame_height, frame_width), np.float32)
    # A part that is larger than the resized image was padded.
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    shown = frame[rows, columns]
    shown[:] = heatmap[max(-top, 0) :, max(-left, 0) :][: shown.shape[0], : shown.shape[1]]
    return _resize(frame, *image) if image else frame


def _resize(array: Any, height: int, width: int) -> Any:
    """Bilinear with half-pixel centres and no antialiasing, as `cv2.resize` with `INTER_LINEAR`, but in positions as libtorch's."""
    import numpy as np

    for axis, length in enumerate((height, width)):
        before = array.shape[axis]
        if before == length:
            continue
        # Rounded to float32 once, as a fused multiply-add does.
        ratio = np.float64(np.float32(before) / np.float32(length))
        position = (ratio * (np.arange(length) + 0.5) - 0.5).astype(np.float32).clip(0)
        first = position.astype(np.int64).clip(max=before - 1)
        weight = (position - first.astype(np.float32)).reshape((-1, 1) if axis == 0 else (1, -1))
        second = np.minimum(first + 1, before - 1)
        array = array.take(first, axis) * (1 - weight) + array.take(second, axis) * weight
    return array
