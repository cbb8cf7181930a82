"""Detectors: class logits and boxes of their predictions, before any is left out.

A detector gives `logits` [N, K, Q, 1] of its Q predictions and `boxes` [N, Q, 4]: left, top, right and bottom in fractions of the
image that it is given.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from . import Metadata, scores

if TYPE_CHECKING:
    from torch import Tensor, nn

# From which probability on the libraries' own results show a detection; torchvision's in FiftyOne's zoo.
THRESHOLDS = {"grounding": 0.25, "hf": 0.5, "owl": 0.1, "rfdetr": 0.5, "torchvision": 0.3, "ultralytics": 0.25}


def corners(boxes: Tensor) -> Tensor:
    """From centre, width and height [..., 4] to left, top, right and bottom."""
    import torch

    centre, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def around(boxes: Tensor, angles: Tensor) -> Tensor:
    """Left, top, right and bottom [..., 4] of what lies around rotated boxes.

    They have centre, width and height [..., 4], and angles in radians [..., 1]. FiftyOne stores such boxes as polylines, which count
    by the box around them.
    """
    import torch

    cosine, sine = angles.cos().abs(), angles.sin().abs()
    width, height = boxes[..., 2:3], boxes[..., 3:4]
    size = torch.cat([width * cosine + height * sine, width * sine + height * cosine], dim=-1)
    return corners(torch.cat([boxes[..., :2], size], dim=-1))


# Of overlapping detections of a class (intersection over union) the libraries keep the likeliest, and at most so many of an image.
SUPPRESSED: dict[str, Any] = {"iou": 0.7, "most": 300}  # Ultralytics' own settings
CHOSEN: dict[str, Any] = {"iou": None, "most": 300}  # networks that are trained to find each object once
ALL: dict[str, Any] = {"iou": None, "most": None}


def _described(is_softmax: bool, library: str, suppression: dict[str, Any]) -> Metadata:
    detections = {
        "boxes": "boxes",
        "scores": "softmax" if is_softmax else "sigmoid",
        "threshold": THRESHOLDS[library],
        "suppression": suppression,
    }
    return {"task": "detection", "primary_output": "logits", "detections": detections}


def queries(module: Any, classes: dict[str, str]) -> Metadata:
    """Has a detector of transformers give its queries' logits and boxes; what is known of it then.

    Where the queries have one class more than the model names, that is the one for no object, and `classes` has it afterwards.
    """

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        found = own(pixel_values=images)
        return {"logits": found.logits.transpose(1, 2).unsqueeze(-1), "boxes": corners(found.pred_boxes)}

    # DETR, YOLOS and Table Transformer, as their `post_process_object_detection` has it; others have a sigmoid for each class
    is_softmax = _num_channels(module) == module.config.num_labels + 1
    if is_softmax:
        classes[str(module.config.num_labels)] = "background"
    scores.override_forward(module, forward)
    return _described(is_softmax, "hf", ALL)


def texts(module: Any, embedded: Tensor) -> Metadata:
    """Has an OWL-ViT or OWLv2 give the scores of texts with these embeddings [K, D] at each place; what is known of it then."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        places, _ = self.image_embedder(pixel_values=images)
        features = places.flatten(1, 2)
        found, _ = self.class_predictor(features, self.camflow_texts.expand(len(images), -1, -1))
        return {"logits": found.transpose(1, 2).unsqueeze(-1), "boxes": corners(self.box_predictor(features, places))}

    module.register_buffer("camflow_texts", embedded)
    scores.override_forward(module, forward)
    return _described(is_softmax=False, library="owl", suppression=ALL)


def grounded(module: Any, tokens: dict[str, Tensor], places: list[range]) -> Metadata:
    """Has a Grounding DINO give the scores of texts in its queries' boxes; what is known of it then.

    `tokens` [1, T] are those of all texts as one, and `places` says where those of each are. The score of a text is that of its
    likeliest token, as the library takes the likeliest of all tokens for a box's. The network of texts, which sees no image, is run once.
    """
    import torch

    own_model = module.model
    namespace = vars(sys.modules[type(module).__module__])
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    types = tokens.get("token_type_ids", torch.zeros_like(ids))
    between, positions = namespace["generate_masks_with_special_tokens_and_transfer_map"](ids, own_model.special_tokens)
    with torch.no_grad():
        read = own_model.text_backbone.eval().float()(ids, between[:, None], types, positions).last_hidden_state
    own_model.text_backbone = _already_read(read)
    for name, value in (("ids", ids), ("mask", mask)):
        module.register_buffer(f"camflow_{name}", value, persistent=False)

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        count = len(images)
        found = own(
            pixel_values=images, input_ids=self.camflow_ids.expand(count, -1), attention_mask=self.camflow_mask.expand(count, -1)
        )
        likeliest = [found.logits[..., of_text.start : of_text.stop].amax(-1) for of_text in places]
        return {"logits": torch.stack(likeliest, dim=1).unsqueeze(-1), "boxes": corners(found.pred_boxes)}

    scores.override_forward(module, forward)
    return of_levels("grounding", [f"model.input_proj_vision.{level}" for level in range(len(own_model.input_proj_vision))], ALL)


def _already_read(states: Tensor) -> nn.Module:
    """What gives the last hidden states [1, T, C] of a text, whatever it is asked."""
    import torch

    class Read(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("states", states, persistent=False)

        def forward(self, ids: Tensor, *_: object, **__: object) -> Any:
            return SimpleNamespace(last_hidden_state=self.get_buffer("states").expand(len(ids), -1, -1))

    return Read()


def _num_channels(module: nn.Module) -> int:
    """The channels of a classification head, which may be one for each layer of the decoder."""
    head: Any = getattr(module, "class_labels_classifier", None) or getattr(module, "class_embed", None)
    while head is not None and not hasattr(head, "out_features"):
        children = list(head.children())
        head = children[-1] if children else None
    return int(head.out_features) if head is not None else 0


def anchors(module: Any) -> Metadata:
    """Has a detector of Ultralytics give its anchors' logits and boxes, also one of masks, key points or rotated boxes.

    What is known of it then.
    """
    import torch

    head = module.model[-1]
    head.dynamic = True  # or the anchors of one size would be constants
    if hasattr(head, "lrpc"):
        head.conf = 0  # one that proposes places gives all of them then, as in its library's own exports
    # Such heads give corners, of the predictions that they choose; without a choice, of all.
    is_end2end = bool(getattr(head, "end2end", False))
    if is_end2end:
        vars(head)["postprocess"] = lambda predictions: predictions
    module.float().eval()  # results of training are others
    num_classes = head.nc

    def found_by(self: Any, own: Callable[..., Any], images: Tensor) -> tuple[Tensor, dict[str, Any]]:
        results, raw = own(x=images)
        results = results[0] if isinstance(results, tuple) else results
        return results.transpose(1, 2) if is_end2end else results, raw

    def branch(raw: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = raw if name is None else raw[name]
        return found

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        results, raw = found_by(self, own, images)
        height, width = images.shape[-2:]
        sides = torch.tensor([width, height, width, height], dtype=results.dtype)
        boxes = results[:, :4].transpose(1, 2)
        if "angle" in branch(raw):
            boxes = around(boxes, branch(raw)["angle"].transpose(1, 2))
        elif not is_end2end:
            boxes = corners(boxes)
        return {"logits": branch(raw)["scores"].unsqueeze(-1), "boxes": boxes / sides}

    # Those with two branches decode one of them.
    name: str | None = None
    with torch.no_grad():
        results, raw = found_by(module, lambda x: type(module).forward(module, x), torch.rand(1, 3, 64, 96))
    for candidate in ("one2one", "one2many"):
        if candidate in raw and torch.equal(raw[candidate]["scores"].sigmoid(), results[:, 4 : 4 + num_classes]):
            name = candidate
            break
    scores.override_forward(module, forward)
    suppression = CHOSEN if is_end2end else SUPPRESSED
    return of_levels("ultralytics", [f"model.{level}" for level in module.model[-1].f], suppression)


def decoder(module: Any) -> Metadata:
    """Has an RT-DETR of Ultralytics give its queries' logits and boxes; what is known of it then."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        # Of the last layer of the decoder, before those with the highest scores are chosen.
        _, (boxes, logits, *_) = own(x=images)
        return {"logits": logits[-1].transpose(1, 2).unsqueeze(-1), "boxes": corners(boxes[-1])}

    module.float().eval()  # results of training are others
    scores.override_forward(module, forward)
    return of_levels("ultralytics", [f"model.{level}" for level in module.model[-1].f], CHOSEN)


def projected(module: Any) -> Metadata:
    """Has an RF-DETR give its queries' logits and boxes; what is known of it then."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        boxes, logits, *_ = self.forward_export(images)
        return {"logits": logits.transpose(1, 2).unsqueeze(-1), "boxes": corners(boxes)}

    module.export()  # the parts that are another way for tracing
    vars(module).pop("forward", None)
    module.segmentation_head = None  # masks are no part of scores
    scores.override_forward(module, forward)
    levels = [f"backbone.0.projector.stages.{level}" for level in range(len(module.backbone[0].projector.stages))]
    return of_levels("rfdetr", levels, CHOSEN)


def of_levels(library: str, levels: list[str], suppression: dict[str, Any], *, is_softmax: bool = False) -> Metadata:
    """Of a detector whose default layers are what its head is given: a map for each size of objects.

    `suppression` is the overlap ("iou") above which a detection gives way to a likelier one of its class, or None, and how many an
    image has at most ("most"), or None.
    """
    aliases = {str(number): level for number, level in enumerate(levels, 1)}
    return _described(is_softmax, library, suppression) | {"aliases": aliases, "default_layers": list(aliases)}
