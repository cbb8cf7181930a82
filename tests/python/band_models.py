"""Small classifiers of images of any number of channels, for `test_full_depth.py`; each a function for the exporter."""

import torch
from torch import nn


def channels(count: int) -> nn.Module:
    """Of images of `count` channels; it does not say how they are preprocessed."""
    torch.manual_seed(count)
    body = nn.Sequential(nn.Conv2d(count, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.ReLU())
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    model.camflow_metadata = {"task": "classification", "classes": ["a", "b", "c"], "aliases": {"1": "0"}, "example": [32, 40]}
    return model


def one() -> nn.Module:
    """Of gray."""
    return channels(1)


def two() -> nn.Module:
    """Of radar, say."""
    return channels(2)


def three() -> nn.Module:
    """Of colour."""
    return channels(3)


def four() -> nn.Module:
    """Of colour and near infrared."""
    return channels(4)


def thirteen() -> nn.Module:
    """Of all bands of Sentinel-2."""
    return channels(13)
