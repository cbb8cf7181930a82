"""Classifiers of Ultralytics, which FiftyOne's zoo has. The library is the user's own: nothing of it is imported here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..messages import ExportError
from ..transforms import steps_from_transforms
from . import Metadata, scores

if TYPE_CHECKING:
    from torch import Tensor, nn


def network(model: Any) -> tuple[nn.Module, Metadata]:
    """(network, what is known of it) of an `ultralytics.YOLO` that classifies.

    Raises:
        ExportError: it gives boxes.
    """
    if model.task != "classify":
        raise ExportError(
            f"the model is for the task `{model.task}`: camflow explains scores of classes, of an image or of its pixels",
            "explain a classifier of the same classes in its place",
            code=2,
        )
    module: Any = model.model

    def forward(self: Any, own: Any, images: Tensor) -> Tensor:
        found = own(x=images)
        scores: Tensor = found[1] if isinstance(found, tuple) else found  # probabilities come before what they are made of
        return scores

    scores.override_forward(module, forward)
    metadata: Metadata = {"task": "classification", "classes": {str(i): name for i, name in dict(module.names).items()}}
    if getattr(module, "transforms", None) is not None:
        metadata["preprocess"] = steps_from_transforms(module.transforms)
    return module, metadata
