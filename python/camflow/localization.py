"""Boxes and masks of stored heatmaps, and how well these localize: `camflow localize`."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .collection import check_samples, environment, selection
from .messages import logger
from .process import INTERRUPTED, CamflowError, find
from .settings import flags, names

if TYPE_CHECKING:
    import fiftyone as fo

# Exit code: done, but for heatmaps that could not be read.
SOME_FAILED = 1


@dataclass(frozen=True)
class Localization:
    """How well heatmaps localize, and what was written."""

    # One entry for each field and class, and with several one for all together: "threshold", "iou", "iou_cross_validated",
    # "max_box_acc_v2", "px_ap" and others, in [0, 1]; None where they are not known.
    classes: list[dict[str, Any]]
    # All that `camflow localize --json` writes.
    numbers: dict[str, Any] = field(repr=False)
    _text: str = field(repr=False)

    def __str__(self) -> str:
        """The table and the counts in words."""
        return self._text


def localize(
    samples: fo.core.collections.SampleCollection,
    fields: str | Iterable[str] | None = None,
    *,
    boxes: str | None = None,
    masks: str | None = None,
    threshold: float | None = None,
    truth: str | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Localization:
    """Makes boxes and masks of stored heatmaps, and measures how well these localize. No model is needed.

    Labels that are up to date (same heatmaps, thresholds and settings) are kept.

    Args:
        samples: a dataset or a view with heatmaps
        fields: their fields, one for each class; by default all that camflow made
        boxes: the field that gets `fo.Detections`, one for each connected part of a heatmap
        masks: the field that gets `fo.Segmentation`
        threshold: share of a heatmap's highest value, 0.01 to 1 in hundredths; without it, thresholds are learnt on `truth`
        truth: the label field that says where objects are
        out: folder for the files of masks; by default that of the dataset's heatmaps
        settings: any other flag of `camflow localize`, such as `largest=True`, `ignore="void"` or `map={"automobile": "car"}`

    Returns:
        the numbers of each class, and counts

    Raises:
        CamflowError: nothing could be done, with what to do about it
        KeyboardInterrupt: it was interrupted; what was written by then is stored, and the next call goes on from there
    """
    import fiftyone as fo

    check_samples(samples)
    if isinstance(samples, fo.DatasetView) and samples.media_type == fo.core.media.GROUP:
        samples = samples.select_group_slices(media_type="image")
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        numbers = Path(folder) / "numbers.json"
        arguments = ["localize", f"--dataset={samples._root_dataset.name}", f"--json={numbers}", *names(fields, "--fields")]
        arguments += flags({"boxes": boxes, "masks": masks, "threshold": threshold, "truth": truth})
        arguments += flags({"out": out and Path(out).absolute(), **settings})
        for flag, content in selection(samples, of_labels=False).items():
            file = Path(folder) / flag.strip("-")
            file.write_text(content)
            arguments.append(f"{flag}={file}")
        done = subprocess.run([find(), *arguments], env=environment(), capture_output=True, text=True, check=False)
        if done.returncode == INTERRUPTED:
            raise KeyboardInterrupt
        if done.returncode not in (0, SOME_FAILED) or not numbers.exists():
            raise CamflowError(done.stderr.strip().removeprefix("error: "))
        found = json.loads(numbers.read_text())
    for line in done.stderr.splitlines():
        label, _, text = line.partition(": ")
        if label == "warning":
            logger.warning("%s", text)
        elif label == "note":
            logger.info("%s", line)
    if boxes or masks:
        samples._root_dataset.reload()
        if isinstance(samples, fo.DatasetView):
            samples.reload()
    return Localization(classes=found["classes"], numbers=found, _text=done.stdout.strip())
