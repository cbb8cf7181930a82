"""Detectors of torchvision: what their networks give before any prediction is left out, and how they prepare images."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..preprocess import Step, normalize_step, resize_step
from . import Metadata, detection, regions, scores
from .pyramid import anchors_of, features_of, fractions, levels_of

if TYPE_CHECKING:
    from torch import Tensor, nn

ONE_STAGE = ("RetinaNet", "FCOS", "SSD")
TWO_STAGES = "GeneralizedRCNN"
WITH_SOFTMAX = ("SSD",)  # whose first class is the background
OF = "torchvision.models.detection."


def kind_of(module: object) -> str | None:
    """Which of torchvision's detectors a module is, also one of a class derived from it, or None."""
    kinds = (kind.__name__ for kind in type(module).__mro__ if kind.__module__.startswith(OF))
    return next((kind for kind in kinds if kind in (*ONE_STAGE, TWO_STAGES)), None)


def adapt(module: Any) -> Metadata:
    """Has a detector give the logits and boxes of all its predictions; what is known of it then.

    Raises:
        ExportError: it is one of two stages that reads its regions in a way of its own.
    """
    kind = kind_of(module)
    module.float().eval()  # results of training are others
    if kind == TWO_STAGES:
        levels = regions.adapt(module)
    else:
        levels = levels_of(module)
        _one_stage(module, _of_fcos if kind == "FCOS" else _of_anchors)
    chooses = module.roi_heads if kind == TWO_STAGES else module
    suppression = {"iou": chooses.nms_thresh, "most": chooses.detections_per_img}
    described = detection.of_levels("torchvision", levels, suppression, is_softmax=kind in WITH_SOFTMAX)
    described["detections"] |= {"ranked": True} if kind == TWO_STAGES else {}
    return {
        **described,
        **({"one_size": True} if module.transform.fixed_size is not None else {}),
        "preprocess": steps_of(module.transform),
        "numbered": _numbered(module) if kind in (*WITH_SOFTMAX, TWO_STAGES) else {},
    }


def _numbered(module: Any) -> dict[str, str]:
    """Names of channels where nobody names them: the first is the background of a softmax."""
    if kind_of(module) == TWO_STAGES:
        count = getattr(getattr(module.roi_heads.box_predictor, "cls_score", None), "out_features", 1)
    else:
        count = getattr(module.head.classification_head, "num_columns", 1)
    return {str(n): str(n) if n else "background" for n in range(count)}


def steps_of(transform: Any) -> list[Step]:
    """Preprocess steps of a `GeneralizedRCNNTransform`, which normalises, resizes and pads with zeros.

    Resized samples are rounded to levels here. Long images, of which the larger side would be more than `max_size`, are resized a
    second time to that.
    """
    last = normalize_step(transform.image_mean, transform.image_std)
    how: dict[str, Any] = {"interpolation": "bilinear", "antialias": False}
    if transform.fixed_size is not None:
        width, height = transform.fixed_size
        return [resize_step("resize", (height, width), **how), last]
    steps = [resize_step("resize", transform.min_size[-1], **how), resize_step("resize_max", transform.max_size, **how)]
    if transform.size_divisible > 1:
        steps.append({"op": "pad_multiple", "of": int(transform.size_divisible), "fill": "mean"})
    return [*steps, last]


def _one_stage(module: nn.Module, read: Callable[[Any, dict[str, Tensor], Tensor], tuple[Tensor, Tensor]]) -> None:
    """Has the module give what `read` makes of its head's outputs and the anchors: logits [N, Q, K] and corners in pixels [N, Q, 4]."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        features = list(features_of(self, images).values())
        found = self.head(features)
        logits, boxes = read(self, found, anchors_of(self.anchor_generator, images, features))
        return {"logits": logits.transpose(1, 2).unsqueeze(-1), "boxes": fractions(boxes, images)}

    scores.override_forward(module, forward)


def _of_anchors(module: Any, found: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Of RetinaNet and SSD."""
    codes = found["bbox_regression"]
    of_all = anchors.expand(codes.shape[0], -1, -1).flatten(0, 1)
    boxes = module.box_coder.decode_single(codes.flatten(0, 1), of_all)
    return found["cls_logits"], boxes.view(codes.shape)


def _of_fcos(module: Any, found: dict[str, Tensor], anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Of FCOS, whose score is the geometric mean of a class's probability and the centerness: the logit of that score."""
    import torch

    logarithm = torch.nn.functional.logsigmoid
    score = (logarithm(found["cls_logits"]) + logarithm(found["bbox_ctrness"])) / 2
    return score - torch.log(-torch.expm1(score)), module.box_coder.decode(found["bbox_regression"], anchors)
