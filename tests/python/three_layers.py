"""A small segmentation network with three numbered layers."""

import torch
from torch import nn


class Layers(nn.Module):
    """Each layer halves the map; the scores come from all three."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        first = self.layer1(x)
        second = self.layer2(first)
        third = self.layer3(second)
        maps = (nn.functional.interpolate(each, x.shape[2:], mode="bilinear") for each in (first, second, third))
        return 5 * self.head(sum(maps))


def network() -> nn.Module:
    """With random weights."""
    torch.manual_seed(5)
    model = Layers().eval()
    model.camflow_metadata = {
        "classes": {0: "background", 1: "middle", 2: "light", 3: "never"},
        "preprocess": [
            {"op": "resize", "height": 32, "width": 32},
            {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3},
        ],
    }
    return model
