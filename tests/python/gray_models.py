"""Small classifiers for `test_unusual_inputs.py`; each a function for `scripts/export_model.py`."""

import torch
from torch import nn


def gray(channels=1):
    """For gray images of 32 x 40."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    model.camflow_metadata = {
        "task": "classification",
        "classes": ["middle", "light", "dark"],
        "preprocess": [{"op": "resize", "height": 32, "width": 40}, {"op": "normalize", "mean": [0.5], "std": [0.25]}],
        "aliases": {"1": "0"},
        "example": [32, 40],
    }
    return model


def silent():
    """For colour images, and it does not say how they are preprocessed."""
    model = gray(channels=3)
    del model.camflow_metadata["preprocess"]
    return model


def nameless():
    """Its classes have no names."""
    model = gray()
    del model.camflow_metadata["classes"]
    return model
