"""The exported models in camflow's cache, and what each offers.

The archive's `camflow.json` says it: reading that takes milliseconds, and a form is made anew with every key.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

# What `camflow annotate` takes where no model is named.
DEFAULT = "deeplabv3-resnet50-coco-torch"


class NoModelError(Exception):
    """A file that is no exported model."""


@dataclass
class Model:
    """What a form needs of a model."""

    path: Path
    name: str
    task: str
    classes: list[str]
    # Number -> module path.
    numbered_layers: dict[str, str]
    layers: list[str]
    default_layers: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Model:
        """What the archive at `path` says of itself.

        Raises:
            NoModelError: it cannot be read, or is none of camflow's.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [name for name in archive.namelist() if name.endswith("/extra/camflow.json")]
                if len(entries) != 1:
                    raise NoModelError(f"{path} has no camflow.json: make it with `camflow export`")
                content = json.loads(archive.read(entries[0]))
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise NoModelError(f"{path} is no exported model: {error}") from error
        classes = content.get("classes") or {}
        return cls(
            path=path,
            name=content["name"],
            task=content.get("task", "other"),
            classes=[classes[number] for number in sorted(classes, key=int)],
            numbered_layers=content.get("aliases") or {},
            layers=[layer["path"] for layer in content.get("layers") or []],
            default_layers=content.get("default_layers") or [],
        )


def cache_folder() -> Path:
    """Where camflow keeps exported models."""
    if folder := os.environ.get("CAMFLOW_CACHE"):
        return Path(folder) / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "camflow" / "models"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # Only absolute paths count, says the specification.
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "camflow" / "models"


def exported() -> list[Path]:
    """The exported models, camflow's default first, the others by name."""
    return sorted(cache_folder().glob("*.pt2"), key=lambda path: (path.stem != DEFAULT, path.stem))
