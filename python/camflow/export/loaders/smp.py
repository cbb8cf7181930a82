"""Models of segmentation-models-pytorch, as `ARCHITECTURE:ENCODER`."""

from __future__ import annotations

import importlib
from typing import Any

from ..messages import ExportError, unknown
from . import LoadedModel


def library() -> Any:
    """The module `segmentation_models_pytorch`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module("segmentation_models_pytorch")
    except ImportError:
        raise ExportError(
            "segmentation-models-pytorch is not installed in this Python",
            "install it with `pip install segmentation-models-pytorch`",
        ) from None


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The network `name`, such as `unet:resnet34`, for `num_classes` (1 by default), with random weights.

    Raises:
        ExportError: there is none of that name, the library is not installed, or weights were not given.
    """
    smp = library()
    architecture, _, encoder = name.partition(":")
    known = list(smp.MODEL_ARCHITECTURES_MAPPING)
    if architecture.lower() not in known:
        raise unknown(architecture, known, "segmentation-models-pytorch")
    encoder = encoder or "resnet34"
    if not encoder.startswith("tu-") and encoder not in smp.encoders.get_encoder_names():
        raise unknown(encoder, smp.encoders.get_encoder_names(), "the encoders of segmentation-models-pytorch")
    if weights == "default":
        raise ExportError(
            f"`smp:{name}` is a network without published weights",
            f"`camflow export --arch smp:{name} --checkpoint FILE` takes yours",
            code=2,
        )
    module = smp.create_model(architecture, encoder_name=encoder, encoder_weights=None, classes=num_classes or 1)
    # With what images were normalised in the training nobody can tell from the network
    return LoadedModel(module, name.replace(":", "-"), f"smp:{name}", {"task": "segmentation", "classes": {}})
