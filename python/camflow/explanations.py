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
from .settings import flags, names, sentences, texts

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
    text: str | Iterable[str] | None = None,
    text_template: str | None = None,
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
        images: a path, an `fo.Sample`, a PIL image or a uint8 array [height, width, 3] of RGB, or [height, width] of gray; or a
            list of these
        model: as for `compute_heatmaps`
        classes: the classes to explain; by default the model's first for each image
        target: "predicted" (where the model sees the class), "top", "pixel=X,Y", "component" (a number of a
            regression) or "similar=FILE" (how near an embedding is to the file's)
        text: with a CLIP-like model, the texts to explain
        text_template: with a CLIP-like model, what makes a text of each class, such as "a photo of a {}"
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
        TypeError: something is no image
    """
    several = isinstance(images, (list, tuple))
    given = list(images) if several else [images]
    if not given:
        return []
    program = find()
    arguments = names(classes, "--class") + names(layers, "--layers") + names(method, "--method")
    arguments += flags({"target": target, "mask": mask and Path(mask).absolute(), **settings})
    arguments += texts(text, text_template)
    arguments.append(
        f"--model={reference(model, program, class_names, preprocess, sentences(text or classes, text_template, text))}"
    )
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


def image_files(images: Any, folder: str | os.PathLike[str]) -> list[str]:
    """The files of an image or of a list of them, as `explain` takes them; those in memory get files in `folder`.

    Raises:
        CamflowError: a path is none of a file.
        TypeError: something is no image.
        ValueError: the list is empty.
    """
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    if not given:
        raise ValueError("the list of images is empty: name some")
    return [_path(image, Path(folder), number) for number, image in enumerate(given)]


def _path(image: Any, folder: Path, number: int) -> str:
    """The file of an image; one of its own for what is in memory."""
    if isinstance(image, (str, os.PathLike)):
        if not os.fspath(image):
            raise CamflowError("the path of an image is empty")
        named = Path(image).expanduser().absolute()
        # The program takes these, too, and would give more images than were named here.
        if named.is_dir():
            raise CamflowError(f"`{named}` is a folder\nhint: list its images: `sorted(Path(FOLDER).glob('*.jpg'))`")
        if set("*?[") & set(str(named)) and not named.exists():
            raise CamflowError(f"there is no file `{named}`\nhint: a pattern is for `glob.glob`, which gives a list of images")
        return str(named)
    if hasattr(image, "filepath"):
        return str(image.filepath)
    picture = _picture(image)
    # Pillow would cut the levels of deeper ones; the program says what becomes of them.
    is_deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
    path = folder / f"image-{number}.{'tiff' if is_deep else 'png'}"
    (picture if is_deep else picture.convert("RGB")).save(path)
    return str(path)


def _picture(image: Any) -> Any:
    """An image in memory as Pillow's; Pillow itself takes numbers of other types for something else than they are."""
    import numpy as np
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    what = f"a {type(image).__name__}"
    if hasattr(image, "__array__") or hasattr(image, "__array_interface__"):
        array = np.asarray(image)
        if array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))):
            return Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array)
        what = f"an array of {array.dtype} {list(array.shape)}"
    raise TypeError(
        f"an image is a path, an `fo.Sample`, a PIL image or a uint8 array [height, width, 3], and not {what}; several are a list"
    )


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
