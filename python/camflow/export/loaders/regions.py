"""Detectors of two stages: torchvision's Faster R-CNN, and Mask and Keypoint R-CNN by their boxes, by operators that PyTorch itself has.

Regions are as many for each image, so that a graph can hold them: what is missing has no size and no score. Non-maximum suppression and
RoI align are written anew for that; they give what torchvision's give.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..messages import ExportError
from . import scores
from .pyramid import SIZE, anchors_of, features_of, fractions, levels_of

if TYPE_CHECKING:
    from torch import Tensor

PAIRS = 4000  # of a region and a class, which are the predictions of an image
NEVER = -100.0  # a logit whose probability is 0
ROUNDS = 64  # of suppression


def adapt(module: Any) -> list[str]:
    """Has a detector give the logits and boxes of the likeliest pairs of a region and a class; the modules whose maps regions lie in.

    The logit of a pair is that of the softmax's probability of its class, for that class alone.

    Raises:
        ExportError: it looks at its regions in another way than torchvision's own.
    """
    import torch

    pooling = module.roi_heads.box_roi_pool
    if type(pooling).__name__ != "MultiScaleRoIAlign" or pooling.sampling_ratio < 1:
        raise ExportError(
            f"`{type(module).__name__}` reads its regions by a `{type(pooling).__name__}` that camflow does not have",
            "it has `MultiScaleRoIAlign` with a `sampling_ratio` of 1 or more",
            code=2,
        )

    with torch.no_grad():
        found = features_of(module, torch.zeros(1, 3, *SIZE))
    # Of each map how often its image was halved, as torchvision tells it by sizes.
    halvings = [round(math.log2(SIZE[0] / found[name].shape[-2])) for name in found if name in pooling.featmap_names]

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> dict[str, Tensor]:
        heads = self.roi_heads
        features = features_of(self, images)
        regions, is_there, is_settled = proposed(self.rpn, images, list(features.values()))
        maps = [features[name] for name in features if name in pooling.featmap_names]
        read = pooled(pooling, maps, halvings, regions)
        logits, codes = heads.box_predictor(heads.box_head(read))
        boxes = heads.box_coder.decode_single(codes, regions.flatten(0, 1))
        count, number = regions.shape[0], regions.shape[1]
        found = _pairs(logits.view(count, number, -1), boxes.view(count, number, -1, 4), is_there)
        # For what is no number camflow makes no heatmap, and says so.
        logits = torch.where(is_settled[:, None, None], found[0], torch.nan)
        return {"logits": logits.unsqueeze(-1), "boxes": fractions(found[1], images)}

    scores.override_forward(module, forward)
    return levels_of(module, pooling.featmap_names)


def proposed(network: Any, images: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """What a region proposal network proposes.

    Corners in pixels [N, P, 4], the likeliest first, which of them are there [N, P], and whether they are those of greedy suppression [N].
    """
    import torch

    objectness, codes = network.head(features)
    anchors = anchors_of(network.anchor_generator, images, features)
    height, width = images.shape[-2:]
    limit = torch.tensor([width, height, width, height], dtype=features[0].dtype)
    number, at = network.pre_nms_top_n(), 0
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for chances, shifts in zip(objectness, codes, strict=True):
        count = chances.shape[0]
        chances = chances.detach().permute(0, 2, 3, 1).flatten(1)
        per_cell = shifts.shape[1] // 4
        shifts = shifts.detach().unflatten(1, (per_cell, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        own = anchors[at : at + chances.shape[1]]
        at += chances.shape[1]
        # Levels with fewer anchors are filled up, with boxes without a size.
        chances = torch.cat([chances, chances.new_full((count, number), -torch.inf)], 1)
        shifts = torch.cat([shifts, shifts.new_zeros(count, number, 4)], 1)
        own = torch.cat([own, own.new_zeros(number, 4)])
        chances, places = chances.topk(number, dim=1)
        shifts = shifts.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
        boxes = network.box_coder.decode_single(shifts.flatten(0, 1), own[places].flatten(0, 1)).view(count, number, 4)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        chances = chances.sigmoid()
        sizes = boxes[..., 2:] - boxes[..., :2]
        is_there = (sizes >= network.min_size).all(-1) & (chances >= network.score_thresh)
        is_kept, is_settled = unsuppressed(boxes, is_there, network.nms_thresh)
        found.append((boxes, torch.where(is_kept, chances, -1.0), is_settled))
    every = torch.cat([boxes for boxes, *_ in found], 1)
    chances, places = torch.cat([chances for _, chances, _ in found], 1).sort(dim=1, descending=True, stable=True)
    kept = min(network.post_nms_top_n(), number * len(found))
    chances, places = chances[:, :kept], places[:, :kept]
    is_there = chances >= 0
    boxes = every.gather(1, places.unsqueeze(-1).expand(-1, -1, 4))
    is_settled = torch.stack([is_settled for *_, is_settled in found]).all(0)
    return torch.where(is_there.unsqueeze(-1), boxes, 0.0), is_there, is_settled


def unsuppressed(boxes: Tensor, is_there: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Which of boxes [N, P, 4], the likeliest first, non-maximum suppression keeps [N, P], and whether that is certain [N].

    It keeps those that overlap none of those kept before them by more than `most`. As that depends on itself, it is asked again and
    again: as soon as nothing changes any more it is what greedy suppression keeps.
    In a chain of boxes of which each overlaps the next, each round has one more right; ROUNDS are enough for all but very long ones.
    """
    import torch

    corner, end = boxes[..., :2], boxes[..., 2:]
    # [N, P, P]: the row's box with the column's.
    sides = (torch.minimum(end[:, :, None], end[:, None]) - torch.maximum(corner[:, :, None], corner[:, None])).clamp(min=0)
    both = sides[..., 0] * sides[..., 1]
    area = (end - corner).prod(-1)
    overlap = both / (area[:, :, None] + area[:, None] - both)
    before = torch.ones_like(overlap[0], dtype=torch.bool).tril(-1)
    suppresses = ((overlap > most) & before).to(boxes.dtype)
    kept = is_there.to(boxes.dtype).unsqueeze(-1)
    possible = kept
    for _ in range(ROUNDS):
        kept = torch.where(suppresses @ kept > 0, 0.0, possible)
    is_settled = (torch.where(suppresses @ kept > 0, 0.0, possible) == kept).all(1).squeeze(-1)
    return kept.squeeze(-1) > 0, is_settled


def pooled(pooling: Any, levels: list[Tensor], halvings: list[int], regions: Tensor) -> Tensor:
    """RoI align [N * P, C, h, w] of regions [N, P, 4] in pixels, each on the level of its size.

    The levels lie beside each other in one map, in which all samples are taken at once.
    """
    import torch

    count, number = regions.shape[0], regions.shape[1]
    sizes = regions[..., 2:] - regions[..., :2]
    which = torch.floor(pooling.canonical_level + torch.log2(sizes.prod(-1).sqrt() / pooling.canonical_scale) + 1e-6)
    which = (which.clamp(halvings[0], halvings[-1]) - halvings[0]).long()  # [N, P]
    scales = torch.tensor([2.0**-number for number in halvings], dtype=regions.dtype)[which]
    heights = [level.shape[-2] for level in levels]
    widths = [level.shape[-1] for level in levels]
    canvas = torch.cat([torch.nn.functional.pad(level, (0, 0, 0, heights[0] - level.shape[-2])) for level in levels], -1)
    lefts = [sum(widths[:n]) for n in range(len(widths))]

    def by_level(values: list[Any]) -> Tensor:
        return torch.tensor(values, dtype=regions.dtype)[which][..., None]

    rows, columns = pooling.output_size
    ratio = pooling.sampling_ratio

    def samples(start: Tensor, end: Tensor, cells: int, length: Tensor) -> Tensor:
        """Where samples lie along an axis [N, P, cells * ratio], and outside of the canvas those beside the level."""
        start, end = start * scales, end * scales
        step = (end - start).clamp(min=1.0) / cells
        at = (torch.arange(cells * ratio, dtype=regions.dtype) + 0.5) / ratio
        along = start[..., None] + at * step[..., None]
        return torch.where((along < -1.0) | (along > length), torch.inf, torch.minimum(along.clamp(min=0), length - 1))

    y = samples(regions[..., 1], regions[..., 3], rows, by_level(heights))
    x = samples(regions[..., 0], regions[..., 2], columns, by_level(widths)) + by_level(lefts)
    # From -1 to 1 over the canvas.
    y = (y * 2 / (canvas.shape[-2] - 1) - 1).clamp(max=3.0)
    x = (x * 2 / (canvas.shape[-1] - 1) - 1).clamp(max=3.0)
    grid = torch.stack([x[:, :, None].expand(-1, -1, rows * ratio, -1), y[..., None].expand(-1, -1, -1, columns * ratio)], -1)
    taken = torch.nn.functional.grid_sample(canvas, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=True)
    cells = taken.view(count, -1, number, rows, ratio, columns, ratio).mean((4, 6))
    return cells.transpose(1, 2).flatten(0, 1)


def _pairs(logits: Tensor, boxes: Tensor, is_there: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [N, K, Q] and boxes [N, Q, 4] of the likeliest pairs of a region and a class, of logits [N, P, K] and boxes [N, P, K, 4]."""
    import torch

    number, channels = logits.shape[1], logits.shape[2]
    chances = torch.where(is_there.unsqueeze(-1), logits.detach().softmax(-1)[..., 1:], -1.0).flatten(1)
    chances, places = chances.topk(min(PAIRS, number * (channels - 1)), dim=1)
    region, channel = places // (channels - 1), places % (channels - 1) + 1
    of_region = logits.gather(1, region.unsqueeze(-1).expand(-1, -1, channels))  # [N, Q, K]
    is_own = torch.arange(channels) == channel.unsqueeze(-1)
    against = of_region.masked_fill(is_own, -torch.inf).logsumexp(-1)
    own = of_region.gather(2, channel.unsqueeze(-1)).squeeze(-1) - against
    chosen = boxes.flatten(1, 2).gather(1, (region * channels + channel).unsqueeze(-1).expand(-1, -1, 4))
    is_pair = (chances >= 0).unsqueeze(-1)
    found = torch.where(is_own & is_pair, own.unsqueeze(-1), NEVER)
    return found.transpose(1, 2), torch.where(is_pair, chosen, 0.0)
