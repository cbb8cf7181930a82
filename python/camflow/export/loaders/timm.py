"""Models of timm, by name."""

from __future__ import annotations

from typing import Any

from ..messages import ExportError, unknown
from ..transforms import steps_from_transforms
from . import LoadedModel, of_classes


def library() -> Any:
    """The module `timm`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        import timm
    except ImportError:
        raise ExportError("timm is not installed in this Python", "install it with `pip install timm`") from None
    return timm


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The model `name`, with its published weights where `weights` is "default", and random ones otherwise.

    Raises:
        ExportError: there is none of that name, or timm is not installed.
    """
    timm = library()
    hub, _, repository = name.partition(":")  # a repository of Hugging Face's hub, or a folder of one
    if hub not in ("hf-hub", "local-dir") and not timm.is_model(name):
        raise unknown(name, timm.list_models(), "timm")
    module = timm.create_model(name, pretrained=weights == "default", **of_classes(num_classes))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    subset, classes = timm.data.infer_imagenet_subset(module), {}
    if subset:
        info = timm.data.ImageNetInfo(subset)
        classes = {str(i): info.index_to_description(i) for i in range(info.num_classes())}
    return LoadedModel(
        module,
        repository.rstrip("/").rpartition("/")[2] or name,
        f"timm:{name}",
        {
            "preprocess": steps_from_transforms(transform),
            # such as DINOv2, whose weights have no head
            "task": "classification" if getattr(module, "num_classes", None) != 0 else "embedding",
            "classes": classes,
        },
    )
