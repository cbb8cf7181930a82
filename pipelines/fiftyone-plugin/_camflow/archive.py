"""What an exported model says of itself: the `camflow.json` of its archive, which takes milliseconds to read and no torch."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .names import UNSEEN, shown

# Of camflow.json, as camflow itself reads it.
FORMAT = 1
MAX_BYTES = 16 << 20
MAX_NAME = 1000
MAX_DIGITS = 10


class NoModelError(Exception):
    """A file that is no exported model; the text says which one, and why."""


@dataclass
class Model:
    """A model as its archive describes it."""

    path: Path
    name: str
    # "classification", "segmentation", "detection", "embedding", "regression" or "other".
    task: str
    # Number -> name, in the order of the numbers.
    numbered_classes: dict[str, str]
    # Number -> module path.
    numbered_layers: dict[str, str]
    # Module paths of all layers, and the numbers or paths of those that are explained where nobody names others.
    layers: list[str]
    default_layers: list[str] = field(default_factory=list)
    # Whether it is an image tower, beside which texts are laid in each run.
    takes_texts: bool = False

    @property
    def classes(self) -> list[str]:
        """The names of the classes."""
        return list(self.numbered_classes.values())

    @classmethod
    def read(cls, path: Path) -> Model:
        """What the archive at `path` says of itself.

        Raises:
            NoModelError: it cannot be read, or is none of camflow's.
        """
        try:
            content = _content(path)
            return cls._of(path, content)
        except NoModelError as error:
            raise NoModelError(f"{shown(path)} is not a camflow model: {error}") from error

    @classmethod
    def _of(cls, path: Path, content: dict[str, Any]) -> Model:
        classes = _names(content, "classes")
        if not all(number.isascii() and number.isdecimal() and len(number) < MAX_DIGITS for number in classes):
            raise NoModelError("its classes are not numbered")
        layers = content.get("layers") or []
        if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
            raise NoModelError("its layers are no list of objects")
        return cls(
            path=path,
            name=_text(content.get("name"), "name"),
            task=_text(content.get("task", "other"), "task"),
            numbered_classes={number: classes[number] for number in sorted(classes, key=int)},
            numbered_layers=_names(content, "aliases"),
            layers=[_text(layer.get("path"), "layer") for layer in layers],
            default_layers=[_text(layer, "layer") for layer in _list(content, "default_layers")],
            takes_texts=content.get("texts") is not None,
        )


def _content(path: Path) -> dict[str, Any]:
    """The `camflow.json` of an archive, which may be any file at all."""
    if not path.is_file():
        raise NoModelError("there is no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith("/extra/camflow.json")]
            if len(entries) != 1:
                raise NoModelError("it has no camflow.json; `camflow export` writes models")
            # torch stores; what is compressed may be larger than any memory.
            if entries[0].compress_type != zipfile.ZIP_STORED or entries[0].file_size > MAX_BYTES:
                raise NoModelError("its camflow.json is compressed or too large")
            text = archive.read(entries[0])
        content = json.loads(text, object_pairs_hook=_once_each, parse_constant=_no_number)
    except (OSError, ValueError, RuntimeError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise NoModelError(shown(str(error) or type(error).__name__)) from error
    if not isinstance(content, dict):
        raise NoModelError("its camflow.json is no object")
    if content.get("camflow") != FORMAT:
        raise NoModelError(f"its camflow.json is not of format {FORMAT}")
    return content


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no number")


def _text(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME or UNSEEN.search(value):
        raise NoModelError(f"its {what} is no text, too long, or holds characters that nobody can see")
    return value


def _names(content: dict[str, Any], key: str) -> dict[str, str]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise NoModelError(f"its {key} are no object")
    return {_text(name, key): _text(text, key) for name, text in value.items()}


def _list(content: dict[str, Any], key: str) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list):
        raise NoModelError(f"its {key} are no list")
    return value
