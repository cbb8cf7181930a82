"""The reference that camflow is judged by: pytorch_grad_cam, given the same tensor, and how far fp32 itself is from fp64."""

from __future__ import annotations

import copy

import numpy as np
from logits import Logits
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

import torch

LAYERS = ("layer1", "layer2", "layer3", "layer4")


def grad_cam(model: torch.nn.Module, pixels: torch.Tensor, masks: np.ndarray, category: int) -> dict[str, np.ndarray]:
    """Heatmaps f32 [N, H, W] by layer. `pixels` is [N, 3, H, W], `masks` [N, h, w] of 0 and 1."""
    wrapped = Logits(model).eval()
    maps = {}
    for layer in LAYERS:
        target_layer = getattr(model.backbone, layer)
        per_image = []
        # One by one, as the tutorial does: batching is camflow's business.
        for image, mask in zip(pixels, masks, strict=True):
            target = SemanticSegmentationTarget(category, mask.astype(np.float32))
            target.mask = target.mask.to(pixels.dtype)
            with GradCAM(model=wrapped, target_layers=[target_layer]) as cam:
                per_image.append(cam(input_tensor=image[None], targets=[target])[0])
        maps[layer] = np.stack(per_image)
    return maps


def double(model: torch.nn.Module) -> torch.nn.Module:
    """A copy in fp64."""
    return copy.deepcopy(model).double()
