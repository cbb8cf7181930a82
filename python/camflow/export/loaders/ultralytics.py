"""Classifiers and detectors of Ultralytics, which FiftyOne's zoo has. The library is the user's own: nothing of it is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..messages import ExportError
from ..transforms import steps_from_transforms
from . import Metadata, detection, scores

if TYPE_CHECKING:
    from torch import Tensor, nn

# Tasks whose results have boxes along the image's sides.
DETECTS = ("detect", "segment", "pose")
SIDE = 640  # of the images that the models were trained on, and that their library makes


def network(model: Any) -> tuple[nn.Module, Metadata]:
    """(network, what is known of it) of an `ultralytics.YOLO` that classifies or detects.

    Raises:
        ExportError: it gives nothing of the kind.
    """
    module: Any = model.model
    classes = {str(i): name for i, name in dict(module.names).items()}
    if model.task in DETECTS:
        steps = [{"op": "letterbox", "height": SIDE, "width": SIDE, "fill": 114, "stride": int(max(module.stride))}]
        return module, {**detection.anchors(module), "classes": classes, "preprocess": steps, "example": [SIDE, SIDE]}
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
