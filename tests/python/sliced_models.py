"""Networks for images in slices: one that sees little around a pixel, and a classifier of its mean."""

import torch
from torch import nn

CLASSES = {0: "background", 1: "cat", 2: "dog"}
NORMALIZE = {"op": "normalize", "mean": [0.5] * 3, "std": [0.25] * 3}


class Local(nn.Module):
    """A score for each class at every fourth pixel, of the 11 x 11 pixels around it."""

    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        return self.head(self.mix(self.layer2(self.layer1(x))))


class Classifier(Local):
    """Scores of the whole image."""

    def forward(self, x):
        return super().forward(x).mean((2, 3))


def made(kind: type[nn.Module], seed: int, preprocess: list) -> nn.Module:
    torch.manual_seed(seed)
    model = kind().eval()
    model.camflow_metadata = {"classes": CLASSES, "preprocess": [*preprocess, NORMALIZE]}
    return model


def local() -> nn.Module:
    """With random weights, for images of any size as they are."""
    return made(Local, 6, [])


def classifier() -> nn.Module:
    """Of images of 64 x 64 pixels."""
    return made(Classifier, 4, [{"op": "resize", "height": 64, "width": 64}])


def cropping() -> nn.Module:
    """Of the middle of an image."""
    return made(Local, 3, [{"op": "center_crop", "height": 48, "width": 48}])
