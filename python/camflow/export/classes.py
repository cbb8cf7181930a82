"""The names of a model's classes, as people write them down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .messages import ExportError

# How names of files end that lists of classes are in.
FILES = (".txt", ".json", ".names", ".csv", ".yaml", ".yml")


def classes_by_channel(classes: Mapping[Any, Any] | Iterable[Any] | None) -> dict[str, str]:
    """{"0": name} of names in order, of names by channel, or of channels by name (`class_to_idx`).

    Raises:
        ExportError: a key is no number of a channel, or a name is too long or cannot be seen.
    """
    if (
        isinstance(classes, dict)
        and not all(str(key).isdecimal() for key in classes)
        and all(isinstance(value, int) for value in classes.values())
    ):
        classes = {channel: name for name, channel in classes.items()}
    pairs = list(classes.items() if isinstance(classes, dict) else enumerate(classes or ()))
    for channel, name in pairs:
        if not str(channel).isdecimal():
            raise ExportError(
                f"`classes` has the key `{channel}`, which is no number of a channel",
                "give a list of names, or a dict from channel to name",
                code=2,
            )
        if len(str(name).encode()) > 1000 or not str(name).isprintable():
            raise ExportError(
                f"the name {str(name)[:60]!r} of class {channel} is too long or has characters that nobody can see", code=2
            )
    return {str(int(channel)): str(name) for channel, name in pairs}


def read_classes(text: str) -> list[Any] | dict[str, Any]:
    """The names that `--classes` gives: a file (JSON, or one name a line), or names with commas.

    Raises:
        ExportError: a name is empty, or the file cannot be read.
    """
    # A list of names may be longer than a path can be, of which `Path.is_file` would raise.
    if not os.path.isfile(text):
        names: list[Any] | dict[str, Any] = [name.strip() for name in text.split(",")]
        if len(names) == 1 and Path(text).suffix in FILES:
            raise ExportError(f"`--classes`: there is no file `{text}`", "names without a file are separated by commas", code=2)
        if not all(names):
            raise ExportError(
                f"`--classes {text}` has an empty name, and there is no file of that name",
                "names with commas in them go into a file, one a line",
                code=2,
            )
        return names
    try:
        content = Path(text).read_text(encoding="utf-8")
        if text.endswith(".json"):
            content = json.loads(content)
            if not isinstance(content, (list, dict)):
                raise ValueError("it is neither a list nor an object")
            names = content
        else:
            names = [line.strip() for line in content.splitlines() if line.strip()]
        if not names:
            raise ValueError("it has no names")
        return names
    except (OSError, ValueError) as error:
        raise ExportError(
            f"`--classes`: cannot read `{text}`: {error}",
            "a list of names as JSON (`.json`), or a text with one name a line",
            code=2,
        ) from None
