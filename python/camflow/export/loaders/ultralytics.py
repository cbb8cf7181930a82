"""Classifiers and detectors of Ultralytics, which FiftyOne's zoo has. The library is the user's own: nothing of it is imported here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import ExportError
from ..preprocess import resize_step
from ..transforms import steps_from_transforms
from . import LoadedModel, Metadata, detection, scores

if TYPE_CHECKING:
    from torch import Tensor, nn

# Tasks whose results have boxes.
DETECTS = ("detect", "segment", "pose", "obb")
SIDE = 640  # of the images that the models were trained on, and that their library makes


def load(
    name: str, weights: str, num_classes: int | None = None, classes: Sequence[str] | None = None, prompt: str | None = None
) -> LoadedModel:
    """The model of a file or a name that `ultralytics.YOLO` knows, with its weights where `weights` is "default".

    Such a file holds code, which runs: whoever names this library trusts it. A YOLOE scores `classes`; `prompt` ("{}" stands for the
    class) makes texts of them. One whose name ends in "-pf" looks for the classes of a list of its own.

    Raises:
        ExportError: Ultralytics is not installed, or the model gives nothing that can be explained.
        OSError: it cannot be downloaded, or there is no such file.
    """
    try:
        library: Any = importlib.import_module("ultralytics")
    except ImportError:
        raise ExportError("ultralytics is not installed in this Python", "install it with `pip install ultralytics`") from None
    stem = Path(name).name.removesuffix(".pt").removesuffix(".yaml")
    kind = library.RTDETR if stem.startswith("rtdetr") else library.YOLOE if stem.startswith("yoloe") else library.YOLO
    takes_texts = kind is library.YOLOE and num_classes == len(classes or ())
    if num_classes and not takes_texts:
        raise ExportError(
            f"a model of Ultralytics has the classes of its file, not {num_classes} others",
            "give the file that was trained for them",
            code=2,
        )
    # The published YOLOv5 are newer than their settings, whose names lack the "u".
    settings = re.sub(r"^(yolov5[nsmlx]6?)u$", r"\1", stem).removesuffix("-pf") + ".yaml"
    model = kind(name if weights == "default" else settings)
    if weights != "default" and takes_texts and stem.endswith("-pf"):
        set_list(model, list(classes or ()))
        classes = None
    module, metadata = network(model, classes, prompt, is_random=weights != "default")
    return LoadedModel(module, stem, f"ultralytics:{Path(name).name}", metadata)


def network(
    model: Any, classes: Sequence[str] | None = None, prompt: str | None = None, *, is_random: bool = False
) -> tuple[nn.Module, Metadata]:
    """(network, what is known of it) of an `ultralytics.YOLO` that classifies or detects, a YOLOE with texts of `classes`.

    Raises:
        ExportError: it gives nothing of the kind.
    """
    module: Any = model.model
    if type(module).__name__.startswith("YOLOE"):
        _set_texts(model, classes, prompt, is_random)
    names = {str(i): name for i, name in dict(module.names).items()}
    if model.task in DETECTS:
        if type(module.model[-1]).__name__ == "RTDETRDecoder":
            found, step = detection.decoder(module), resize_step("resize", (SIDE, SIDE), "bilinear", antialias=False)
        else:
            found = detection.anchors(module)
            step = {"op": "letterbox", "height": SIDE, "width": SIDE, "fill": 114, "stride": int(max(module.stride))}
        return module, found | {"classes": names, "preprocess": [step], "example": [SIDE, SIDE], "one_size": True}
    if model.task != "classify":
        raise ExportError(
            f"the model is for the task `{model.task}`: camflow explains scores of classes, of an image, its pixels or boxes",
            "explain a classifier or a detector of the same classes in its place",
            code=2,
        )

    def forward(self: Any, own: Any, images: Tensor) -> Tensor:
        found = own(x=images)
        scores: Tensor = found[1] if isinstance(found, tuple) else found  # probabilities come before what they are made of
        return scores

    scores.override_forward(module, forward)
    metadata: Metadata = {"task": "classification", "classes": names}
    if getattr(module, "transforms", None) is not None:
        metadata["preprocess"] = steps_from_transforms(module.transforms)
    return module, metadata


def _set_texts(model: Any, classes: Sequence[str] | None, prompt: str | None, is_random: bool) -> None:
    """Has a YOLOE score texts, which its library embeds with an encoder that it downloads; random weights get random embeddings."""
    head = model.model.model[-1]
    if hasattr(head, "lrpc"):
        if classes:
            raise ExportError(
                "the model looks for the classes of a list of its own, and takes no others",
                "leave out `--classes`, or take the YOLOE of its size without `-pf`, which takes texts",
                code=2,
            )
        return
    if not classes:
        raise ExportError(
            "the model is a YOLOE, which scores texts, and nothing says which",
            "`--classes` names them: a file (one a line) or a,b,c; `--prompt 'a photo of a {}'` makes sentences of them",
            code=2,
        )
    if is_random:
        embedded = _random_texts(head, len(classes))
    else:
        embedded = model.get_text_pe([(prompt or "{}").replace("{}", name) for name in classes])
    model.model.eval()
    model.set_classes(list(classes), embedded)
    model.model.register_buffer("camflow_texts", embedded)


def _random_texts(head: Any, count: int) -> Tensor:
    import torch

    return torch.nn.functional.normalize(torch.randn(1, count, head.cv3[0][-1].out_channels), dim=-1)


def set_list(model: Any, names: list[str]) -> None:
    """Makes a YOLOE with random weights one that looks for the classes of a list, these.

    That is how its library makes those that it publishes.
    """
    head = model.model.model[-1]
    embedded = _random_texts(head, len(names))
    model.model.eval()
    model.model.set_classes(names, embedded)
    head.fuse(embedded)
    scoring = head.one2one_cv3 if head.end2end else head.cv3
    model.model.set_vocab([branch[-1] for branch in scoring], names)
