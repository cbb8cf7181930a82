"""The one output that is explained, of PyTorch models that return several."""

from __future__ import annotations

import torch


class Logits(torch.nn.Module):
    """A model that returns its logits, as FiftyOne's tutorial wraps torchvision's segmentation models."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        found = self.model(pixels)
        return found["out"] if isinstance(found, dict) else found
