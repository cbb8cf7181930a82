"""The small DETR of the tests: pictures for it, and heatmaps of its predictions by pytorch_grad_cam."""

from __future__ import annotations

import numpy as np
from PIL import Image

import torch

SIZE = (160, 192)
GRID = (5, 6)
LAYER = "model.encoder.layers.1"


def picture(seed: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIZE[1], SIZE[0]), Image.Resampling.BICUBIC))


def tensor(image: np.ndarray) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(image.copy()).float() / 255 - mean) / std).permute(2, 0, 1)[None]


def corners(boxes: torch.Tensor) -> torch.Tensor:
    return torch.cat([boxes[..., :2] - boxes[..., 2:] / 2, boxes[..., :2] + boxes[..., 2:] / 2], dim=-1)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    both = float(np.prod(np.clip(sides, 0, None)))
    return both / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - both)


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixels):
        return self.model(pixel_values=pixels).logits


def tokens(activation: torch.Tensor) -> torch.Tensor:
    return activation.transpose(1, 2).unflatten(2, GRID)


def apart(detector, image: np.ndarray, channel: int, count: int) -> np.ndarray:
    """Boxes (left, top, width, height) within the image, of which each means a prediction of its own."""
    with torch.no_grad():
        found = detector(pixel_values=tensor(image))
    boxes = corners(found.pred_boxes)[0].numpy().astype(float)
    chances = found.logits.softmax(-1)[0, :, channel].numpy()
    kept: dict[int, np.ndarray] = {}
    for box in boxes:
        sides = box[2:] - box[:2]
        is_within = box.min() > 0 and box.max() < 1
        if not is_within or sides.min() < 0.1 or any(iou(box, other) > 0.45 for other in kept.values()):
            continue
        overlaps = np.array([iou(box, other) for other in boxes])
        meant = int(np.where(overlaps >= 0.5, overlaps * chances, -1).argmax())
        kept.setdefault(meant, box)
    assert len(kept) >= count, f"{len(kept)} of {count}"
    chosen = np.stack(list(kept.values())[:count])
    return np.concatenate([chosen[:, :2], chosen[:, 2:] - chosen[:, :2]], axis=1)


def reference(method, detector, image, boxes, channel) -> tuple[np.ndarray, float]:
    """The heatmap and the score of the queries that the boxes (left, top, width, height) mean."""
    with torch.no_grad():
        found = detector(pixel_values=tensor(image))
    predicted, chances = corners(found.pred_boxes)[0].numpy(), found.logits.softmax(-1)[0, :, channel].numpy()
    meant = set()
    for left, top, width, height in boxes:
        overlaps = np.array([iou(np.array([left, top, left + width, top + height]), one) for one in predicted])
        likeness = np.where(overlaps >= 0.5, overlaps * chances, -1)
        if likeness.max() >= 0:
            meant.add(int(likeness.argmax()))
    queries = sorted(meant)
    layer = detector.get_submodule(LAYER)
    with method(model=Logits(detector), target_layers=[layer], reshape_transform=tokens) as cam:
        (heatmap,) = cam(input_tensor=tensor(image), targets=[lambda logits: logits[queries, channel].sum()])
    return heatmap, float(found.logits[0, queries, channel].sum())
