"""Models of torchvision, by name."""

from __future__ import annotations

from ..messages import ExportError, unknown
from ..transforms import steps_from_transforms
from . import LoadedModel, Metadata, of_classes, torchvision_detectors, without_weights


def names() -> list[str]:
    """The names of all models."""
    import torchvision

    listed: list[str] = torchvision.models.list_models()
    return listed


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The model `name`, with its published weights where `weights` is "default", and random ones otherwise.

    A detector is as it is made: `loading` adapts it, as those of users.

    Raises:
        ExportError: there is none of that name, or it is no model from one image to class scores.
    """
    import torchvision.models as tvm

    if name not in names():
        raise unknown(name, names(), "torchvision")
    build = tvm.get_model_builder(name)
    kind = build.__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind in ("quantization", "video", "optical_flow"):
        raise ExportError(
            f"`{name}` is a {kind} model: camflow explains models from one image tensor to class scores",
            "wrap the part that you want to explain in a function: `file.py:function`",
            code=2,
        )
    published = tvm.get_model_weights(name).DEFAULT
    module = tvm.get_model(name, weights=published) if weights == "default" else without_weights(build, **of_classes(num_classes))
    categories = published.meta.get("categories", [])
    # As FiftyOne names the numbers of COCO that stand for nothing.
    others = {"__background__": "background", "N/A": None}
    classes = {str(i): others.get(c, c) or str(i) for i, c in enumerate(categories)}
    metadata: Metadata = {"classes": classes}
    if kind == "detection":
        metadata["preprocess"] = torchvision_detectors.steps_of(module.transform)
    else:
        metadata["preprocess"] = steps_from_transforms(published.transforms())
        metadata["task"] = "segmentation" if kind == "segmentation" else "classification"
    return LoadedModel(module, name, f"torchvision:{name}", metadata)
