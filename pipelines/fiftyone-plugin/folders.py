"""Which paths a form may name. Whoever can open the App can fill it in, and the program runs as the App's user."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ._camflow.names import shown

# Folders beside camflow's own, set where the App is started; several are separated as in PATH.
MODELS = "CAMFLOW_PLUGIN_MODELS"
OUT = "CAMFLOW_PLUGIN_OUT"


class NotAllowedError(Exception):
    """A path that nobody allowed; the text says how to."""


def cache_folder() -> Path:
    """Where camflow keeps exported models."""
    if folder := os.environ.get("CAMFLOW_CACHE"):
        return Path(folder) / "models"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "camflow" / "models"
    return _xdg("XDG_CACHE_HOME", ".cache") / "camflow" / "models"


def output_folder() -> Path:
    """Where camflow writes heatmaps if nobody names another folder."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "camflow"
    return _xdg("XDG_DATA_HOME", ".local/share") / "camflow"


def model(path: str) -> Path:
    """The model file at `path`, if forms may name it.

    Raises:
        NotAllowedError: they may not.
    """
    return _below(path, "model file", cache_folder(), MODELS)


def out(path: str) -> Path:
    """The folder at `path`, if forms may have heatmaps written there.

    Raises:
        NotAllowedError: they may not.
    """
    return _below(path, "folder", output_folder(), OUT)


def _xdg(variable: str, default: str) -> Path:
    folder = os.environ.get(variable, "")
    # Only absolute paths count, says the specification.
    return Path(folder) if os.path.isabs(folder) else Path.home() / default


def _below(path: str, what: str, own: Path, variable: str) -> Path:
    named = Path(path).expanduser()
    allowed = [own, *(Path(folder).expanduser() for folder in os.environ.get(variable, "").split(os.pathsep) if folder)]
    # Links within a folder are its owner's business; `..` behind one leads anywhere.
    is_plain = "\0" not in path and named.is_absolute() and ".." not in named.parts
    if is_plain and any(named.is_relative_to(folder) for folder in allowed if folder.is_absolute()):
        return named
    listed = ", ".join(shown(folder) for folder in allowed)
    raise NotAllowedError(
        f"the App does not allow the {what} `{shown(path)}`: it has to be below {listed}\n"
        f"hint: to allow more folders, set {variable} where the App is started"
    )
