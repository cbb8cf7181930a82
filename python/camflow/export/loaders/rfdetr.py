"""Detectors of RF-DETR (also those with masks), which FiftyOne's zoo has. The library is the user's own: nothing of it is imported here."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import ExportError, unknown
from ..preprocess import normalize_step, resize_step
from . import LoadedModel, Metadata, detection

if TYPE_CHECKING:
    from torch import nn

CHECKPOINTS = (".pth", ".pt", ".ckpt")


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The model of a class of `rfdetr` ("RFDETRNano"), with its published weights where `weights` is "default", or of a checkpoint.

    Raises:
        ExportError: RF-DETR is not installed, has no such class, or the model gives nothing that can be explained.
        OSError: it cannot be downloaded, or there is no such file.
    """
    try:
        library: Any = importlib.import_module("rfdetr")
    except ImportError:
        raise ExportError("rfdetr is not installed in this Python", "install it with `pip install rfdetr`") from None
    options = {"device": "cpu"} | ({"num_classes": num_classes} if num_classes else {})
    if name.endswith(CHECKPOINTS):
        if weights != "default":
            raise ExportError("a checkpoint has weights of its own", "leave out `--weights`", code=2)
        found = library.RFDETR.from_checkpoint(name, **options)
    else:
        kinds = [kind for kind in dir(library) if kind.startswith("RFDETR") and kind != "RFDETR"]
        if name not in kinds:
            raise unknown(name, kinds, "the classes of rfdetr")
        published = {} if weights == "default" else {"pretrain_weights": None}
        found = getattr(library, name)(**options, **published)
    module, metadata = network(found)
    return LoadedModel(module, Path(name).stem, f"rfdetr:{Path(name).name}", metadata)


def network(model: Any) -> tuple[nn.Module, Metadata]:
    """(network, what is known of it) of an `rfdetr.RFDETR`, which stays as it is.

    Raises:
        ExportError: it finds key points, whose classes have an order of their own.
    """
    context = model.model
    if getattr(context.args, "use_grouppose_keypoints", False):
        raise ExportError("the model gives key points in boxes", "explain a detector of the same classes in its place", code=2)
    module = copy.deepcopy(context.model).cpu().float().eval()
    side = int(context.resolution)
    classes = _classes(list(model.class_names), int(context.args.num_classes))
    metadata: Metadata = {
        "classes": classes,
        "unnamed_channels": "0" not in classes,  # COCO's numbers begin at 1, and some were left out
        # As its `predict` makes an image, but for the rounding of resized levels.
        "preprocess": [resize_step("resize", (side, side), "bilinear", antialias=False), normalize_step(model.means, model.stds)],
        "example": [side, side],
        "one_size": True,
    }
    return module, detection.projected(module) | metadata


def _classes(names: list[str], num_slots: int) -> dict[str, str]:
    """Name of each channel: published models have the numbers of COCO's categories, those that were trained on are in order.

    It is how its `predict` names what it finds (1.11.2).
    """
    numbered: Any = importlib.import_module("rfdetr.assets.coco_classes")
    if num_slots > len(names) and names == list(numbered.COCO_CLASS_NAMES):
        return {str(number): name for number, name in numbered.COCO_CLASSES.items()}
    return {str(number): name for number, name in enumerate([*names, "background"])}
