"""The exported models in camflow's cache. A form is made anew with every key, and reads what their archives say each time."""

from __future__ import annotations

from pathlib import Path

from . import folders
from ._camflow.archive import Model, NoModelError

__all__ = ["DEFAULT", "Model", "NoModelError", "exported"]

# What `camflow annotate` takes where no model is named.
DEFAULT = "deeplabv3-resnet50-coco-torch"


def exported() -> list[Path]:
    """The exported models, camflow's default first, the others by name."""
    return sorted(folders.cache_folder().glob("*.pt2"), key=lambda path: (path.stem != DEFAULT, path.stem))
