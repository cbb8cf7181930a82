"""Models for `test_hostile.py`; each a function for `scripts/export_model.py`."""

import torch
from torch import nn


def wide():
    """Takes images as they are, and tens of kilobytes of memory for each of their pixels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 1024, 1), nn.ReLU(), nn.Conv2d(1024, 2, 1)).eval()
    model.camflow_metadata = {
        "task": "segmentation",
        "classes": {"0": "background", "1": "thing"},
        "preprocess": [{"op": "normalize", "mean": [0, 0, 0], "std": [1, 1, 1]}],
        "aliases": {"1": "0"},
        "example": [32, 32],
    }
    return model
