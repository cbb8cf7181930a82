"""A convolutional detector of three levels, in whose head is all that a gradient may pass: for `camflow export small_levels.py:net`."""

from __future__ import annotations

import torch
from torch import nn

SIZE = (96, 160)
STRIDES = (4, 8, 16)
NUM_CLASSES = 3


class Levels(nn.Module):
    """The last level looks at the whole image, and so do its predictions."""

    def __init__(self):
        super().__init__()

        def block(channels, out, stride=1, act=nn.SiLU, **more):
            return nn.Sequential(nn.Conv2d(channels, out, 3, stride, **{"padding": 1, **more}), nn.BatchNorm2d(out), act())

        self.stem = block(3, 8, 4, padding=0)
        self.first = block(8, 16, groups=2)
        # Odd sizes, a longer reach, and one that differs by axis.
        self.down = block(16, 16, 2, act=nn.ReLU)
        self.wide = block(16, 12, padding=2, dilation=2, act=nn.Hardswish)
        self.second = block(24, 16)
        self.last = block(16, 16, 2)
        self.norm = nn.BatchNorm2d(16)
        self.tall = nn.Conv2d(16, 16, (3, 1), padding=(1, 0), groups=16)
        self.heads = nn.ModuleList(nn.Conv2d(16, NUM_CLASSES, 1) for _ in STRIDES)
        places = []
        for stride in STRIDES:
            rows, columns = ((length - 3) // 4 + 1 for length in SIZE)
            for _ in range(STRIDES.index(stride)):
                rows, columns = (rows + 1) // 2, (columns + 1) // 2
            top, left = torch.meshgrid(torch.arange(rows) / rows, torch.arange(columns) / columns, indexing="ij")
            places.append(torch.stack([left, top, left + 1 / columns, top + 1 / rows], -1).reshape(-1, 4))
        self.register_buffer("places", torch.cat(places)[None])

    def forward(self, images):
        first = self.first(self.stem(images))
        down = self.down(first)
        one, other = self.wide(down).chunk(2, 1)
        second = self.second(torch.cat([one * other.sigmoid(), down + 0.5, other.neg()[:, :2]], 1))
        last = self.last(second)
        last = last * last.mean((2, 3), keepdim=True)
        found = []
        for head, level in zip(self.heads, (first, second, last), strict=True):
            level = nn.functional.silu(self.tall(self.norm(level)), inplace=True) - 0.1 * level
            found.append(head(level).permute(0, 2, 3, 1).flatten(1, 2))
        logits = torch.cat(found, 1).transpose(1, 2).unsqueeze(-1)
        return {"logits": logits, "boxes": self.places.expand(len(images), -1, -1)}


def net():
    torch.manual_seed(0)
    model = Levels()
    with torch.no_grad():
        # Batch norms that have seen images.
        model(torch.rand(8, 3, *SIZE))
    model.eval()
    model.camflow_metadata = {
        "task": "detection",
        "primary_output": "logits",
        "detections": {"boxes": "boxes", "scores": "sigmoid", "threshold": 0.5, "suppression": {"iou": None, "most": None}},
        "classes": {str(number): f"class {number}" for number in range(NUM_CLASSES)},
        "preprocess": [{"op": "resize", "height": SIZE[0], "width": SIZE[1], "interpolation": "bilinear", "antialias": True}],
        "aliases": {"1": "first", "2": "second", "3": "last"},
        "default_layers": ["1", "2", "3"],
        "example": list(SIZE),
    }
    return model
