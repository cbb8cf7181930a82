"""Heatmaps of single images, without a database: `camflow explain`, and what it gives as arrays."""

from __future__ import annotations

import base64
import dataclasses
import os
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from .messages import tell
from .models import Preprocess, reference
from .process import CamflowError, Run, find
from .settings import flags, names

BEAT = 0.2


@dataclasses.dataclass(frozen=True)
class HeatmapOf:
    """One heatmap of one image."""

    class_name: str
    # The model's output channel.
    channel: int
    method: str
    # Number or path of the layer, and its module path.
    layer: str
    layer_path: str
    # The number whose gradient was taken.
    score: float
    # float32 [height, width], from 0 to 1.
    values: Any
    # uint8 [height, width, 3]: in colour over the image, at the size of that.
    overlay: Any


@dataclasses.dataclass(frozen=True)
class Explanation:
    """The heatmaps of an image; in a notebook it shows itself."""

    image: str
    heatmaps: list[HeatmapOf]
    # PNG, one for each class: the image beside its overlays.
    sheets: list[bytes] = dataclasses.field(repr=False)
    # Why there are none, where the image could not be explained.
    error: str | None = None

    def _repr_html_(self) -> str:
        pictures = [f'<img src="data:image/png;base64,{base64.b64encode(sheet).decode()}">' for sheet in self.sheets]
        return "<br>".join(pictures) or f"<pre>{self!r}</pre>"


def explain(
    images: Any,
    model: Any,
    classes: str | Iterable[str] | None = None,
    *,
    target: str | None = None,
    mask: str | os.PathLike[str] | None = None,
    layers: str | int | Iterable[str | int] | None = None,
    method: str | Iterable[str] | None = None,
    class_names: Iterable[str] | None = None,
    preprocess: Preprocess | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Any:
    """Computes class-activation heatmaps of an image, or of several.

    Args:
        images: a path, an `fo.Sample`, a PIL image or a uint8 array [height, width, 3] of RGB; or a list of these
        model: as for `compute_heatmaps`
        classes: the classes to explain; by default the model's first for each image
        target: "predicted" (where the model sees the class), "top", "pixel=X,Y", "component" (a number of a
            regression) or "similar=FILE" (how near an embedding is to the file's)
        mask: a file that marks the pixels that count, instead
        layers: numbers ("1-4") or module paths; by default the model's last that carries space
        method: "gradcam", or others of the Grad-CAM family
        class_names: the names of the model's classes, where it does not carry them
        preprocess: how images are prepared, where the model does not say
        out: a folder for the files, if they are to stay
        settings: any other flag of `camflow explain`

    Returns:
        an `Explanation`, or a list of them for a list of images

    Raises:
        CamflowError: nothing could be done, or the only image cannot be explained
        ExportError: the model cannot be exported
    """
    several = isinstance(images, (list, tuple))
    given = list(images) if several else [images]
    program = find()
    arguments = names(classes, "--class") + names(layers, "--layers") + names(method, "--method")
    arguments += flags({"target": target, "mask": mask and Path(mask).absolute(), **settings})
    arguments.append(f"--model={reference(model, program, class_names, preprocess)}")
    with tempfile.TemporaryDirectory(prefix="camflow-") as folder:
        paths = [_path(image, Path(folder), number) for number, image in enumerate(given)]
        found = _run(program, paths, arguments, Path(out).absolute() if out else Path(folder) / "out")
    explained = [
        dataclasses.replace(found[path], image=path if Path(path).parent != Path(folder) else f"image {number}")
        for number, path in enumerate(paths)
    ]
    if several:
        return explained
    if explained[0].error:
        raise CamflowError(explained[0].error)
    return explained[0]


def _path(image: Any, folder: Path, number: int) -> str:
    """The file of an image; one of its own for what is in memory."""
    if isinstance(image, (str, os.PathLike)):
        return str(Path(image).expanduser().absolute())
    if hasattr(image, "filepath"):
        return str(image.filepath)
    from PIL import Image

    path = folder / f"image-{number}.png"
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.convert("RGB").save(path)
    return str(path)


def _run(program: str, paths: list[str], arguments: list[str], out: Path) -> dict[str, Explanation]:
    """By path, what camflow finds."""
    found = {path: Explanation(path, [], []) for path in paths}
    error = None
    with closing(Run(program, ["explain", "--format=json", f"--out={out}", *arguments, "--", *found], own_group=True)) as run:
        for event in run.events(BEAT):
            said: Any = event
            match said and said["event"]:
                case None:
                    continue
                case "heatmap":
                    found[said["input"]].heatmaps.append(_heatmap(said))
                case "contact_sheet":
                    found[said["input"]].sheets.append(Path(said["file"]).read_bytes())
                case "image_failed":
                    found[said["path"]] = Explanation(said["path"], [], [], error=said["error"])
                case "error":
                    error = said["message"]
                case _:
                    tell(said)
    run.check(error)
    return found


def _heatmap(said: Any) -> HeatmapOf:
    import numpy as np
    from PIL import Image

    files = {
        "".join(Path(file).suffixes[-2:]) if file.endswith(".overlay.png") else Path(file).suffix: file for file in said["files"]
    }
    overlay = files.get(".overlay.png")
    return HeatmapOf(
        class_name=said["class"],
        channel=said["channel"],
        method=said["method"],
        layer=said["layer"],
        layer_path=said["path"],
        score=said["score"],
        values=np.load(files[".npy"]),
        overlay=np.asarray(Image.open(overlay).convert("RGB")) if overlay else None,
    )
