"""Samples as FiftyOne's users hold them, a dataset or any view of one, as `camflow` takes them; and the database they are in."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def environment() -> dict[str, str]:
    """This process's environment, with the database that FiftyOne uses here. Never as arguments: a URI may hold a password."""
    import fiftyone as fo

    made = dict(os.environ)
    # Settings of a program win over the environment, and `fo.config` knows both. Without a URI, camflow finds the
    # database by FIFTYONE_PRIVATE_DATABASE_PORT, which FiftyOne sets.
    if fo.config.database_uri:
        made["FIFTYONE_DATABASE_URI"] = fo.config.database_uri
    if fo.config.database_dir:
        made["FIFTYONE_DATABASE_DIR"] = fo.config.database_dir
    made["FIFTYONE_DATABASE_NAME"] = fo.config.database_name
    # Should camflow have to export a model, this Python has what it takes.
    made.setdefault("CAMFLOW_PYTHON", sys.executable)
    # What is asked for in Python is all that is: no `config.toml` or `camflow.toml` adds to it.
    made["CAMFLOW_CONFIG"] = ""
    return made


def check_samples(samples: Any) -> None:
    """Raises `TypeError` for what is neither a dataset nor a view."""
    import fiftyone as fo

    if not isinstance(samples, fo.core.collections.SampleCollection):
        raise TypeError(
            f"`samples` is a {type(samples).__name__}, and has to be a dataset or a view of one, as `fiftyone.load_dataset(NAME)` gives it"
        )


def selection(samples: Any, of_labels: bool) -> dict[str, str]:
    """Which samples of their dataset a dataset or view of images holds, as files for `camflow`: flag to content; none for all.

    With `of_labels` the labels that a view shows are those that count; otherwise its samples alone matter. Heatmaps of patches,
    frames and clips belong to the samples that they are cut from.
    """
    import fiftyone as fo

    if isinstance(samples, fo.Dataset):
        return {}
    if samples._is_patches:
        samples = _of_patches(samples)
    # The ids of frames and clips are their own.
    is_part = samples._is_frames or samples._is_clips
    if is_part or not of_labels:
        ids = samples.values("sample_id" if is_part else "id")
        return {"--ids": "".join(f"{sample}\n" for sample in dict.fromkeys(ids))}
    return {"--view-stages": json.dumps(samples._serialize(include_uuids=False))}


def _of_patches(patches: Any) -> Any:
    """The view of the samples that patches are cut from, with the labels that are the patches."""
    view, fields = patches._source_collection.view(), patches._label_fields
    samples = view.select(list(dict.fromkeys(patches.values("sample_id"))), ordered=True)
    return samples.select_labels(ids=patches._get_label_ids(fields=fields), fields=fields)
