"""Classifiers and detectors of Ultralytics, which FiftyOne's zoo has. The library is the user's own: nothing of it is imported here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import ExportError
from ..preprocess import resize_step
from ..transforms import steps_from_transforms
from . import LoadedModel, Metadata, detection, scores

if TYPE_CHECKING:
    from torch import Tensor, nn

# Tasks whose results have boxes along the image's sides.
DETECTS = ("detect", "segment", "pose")
SIDE = 640  # of the images that the models were trained on, and that their library makes


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The model of a file or a name that `ultralytics.YOLO` knows, with its weights where `weights` is "default".

    Such a file holds code, which runs: whoever names this library trusts it.

    Raises:
        ExportError: Ultralytics is not installed, or the model gives nothing that can be explained.
        OSError: it cannot be downloaded, or there is no such file.
    """
    try:
        library: Any = importlib.import_module("ultralytics")
    except ImportError:
        raise ExportError("ultralytics is not installed in this Python", "install it with `pip install ultralytics`") from None
    stem = Path(name).name.removesuffix(".pt").removesuffix(".yaml")
    kind = library.RTDETR if stem.startswith("rtdetr") else library.YOLO
    if num_classes:
        raise ExportError("`--num-classes` is not for models of Ultralytics", "give the file that was trained for them", code=2)
    # The published YOLOv5 are newer than their settings, whose names lack the "u".
    settings = re.sub(r"^(yolov5[nsmlx]6?)u$", r"\1", stem) + ".yaml"
    model = kind(name if weights == "default" else settings)
    module, metadata = network(model)
    return LoadedModel(module, stem, f"ultralytics:{Path(name).name}", metadata)


def network(model: Any) -> tuple[nn.Module, Metadata]:
    """(network, what is known of it) of an `ultralytics.YOLO` that classifies or detects.

    Raises:
        ExportError: it gives nothing of the kind.
    """
    module: Any = model.model
    classes = {str(i): name for i, name in dict(module.names).items()}
    if model.task in DETECTS:
        if type(module.model[-1]).__name__ == "RTDETRDecoder":
            found, step = detection.decoder(module), resize_step("resize", (SIDE, SIDE), "bilinear", antialias=False)
        else:
            found = detection.anchors(module)
            step = {"op": "letterbox", "height": SIDE, "width": SIDE, "fill": 114, "stride": int(max(module.stride))}
        return module, found | {"classes": classes, "preprocess": [step], "example": [SIDE, SIDE], "one_size": True}
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
    metadata: Metadata = {"task": "classification", "classes": classes}
    if getattr(module, "transforms", None) is not None:
        metadata["preprocess"] = steps_from_transforms(module.transforms)
    return module, metadata
