"""CAM methods at layers that pytorch_grad_cam does not have, in PyTorch, for one image at a time: what camflow's are judged by.

They are written from their papers with what torch-cam 0.5 and the published code of Group-CAM leave no doubt about; `torchcam_parity.py` beside
this compares camflow with torch-cam itself. What is random follows from the sample's name as in camflow (`noise`).

Each takes a classifier [N, 3, H, W] -> [N, K], the path of a layer [N, C, H', W'], an image [1, 3, H, W], a class and the sample's name,
and gives the map [H', W'] as it is before negative values are cut off.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.nn import functional as F

import torch
from torch import Tensor, nn

ALL_BITS = 0xFFFFFFFF
BATCH = 32  # variants at a time


def mixed(numbers: Tensor) -> Tensor:
    """MurmurHash3's finalizer of whole numbers of 32 bits."""
    numbers = numbers ^ (numbers >> 16)
    for multiplier, shift in ((0x85EBCA6B, 13), (0xC2B2AE35, 16)):
        numbers = (numbers * (multiplier - (1 << 32))) & ALL_BITS
        numbers = numbers ^ (numbers >> shift)
    return numbers


def noise(names: Sequence[str], count: int) -> Tensor:
    """Normal noise f32 [names, count] that follows from each name."""
    digests = []
    for start in (1, 2):
        digest = torch.full((len(names),), start)
        for at, name in enumerate(names):
            for byte in name.encode():
                digest[at] = mixed(digest[at] ^ (byte + 1))
        digests.append(digest[:, None])
    numbers = mixed(mixed(torch.arange(count)[None] ^ digests[0]) ^ digests[1])
    odd = 2 * (numbers >> 8) + 1 - (1 << 24)
    return torch.erfinv(odd.float() / (1 << 24)) * 2**0.5


def looked_at(network: nn.Module, layer: str, pixels: Tensor, channel: int) -> tuple[Tensor, Tensor]:
    """The activation of the layer and the gradient of the class's logit, [1, C, H', W'] both."""
    kept = []
    hook = network.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.enable_grad():
        logits = network(pixels.clone().requires_grad_(True))
        hook.remove()
        (gradient,) = torch.autograd.grad(logits[0, channel], kept[0])
    return kept[0].detach(), gradient


def weighted(weights: Tensor, activation: Tensor) -> Tensor:
    return torch.einsum("c,cij->ij", weights, activation[0])


def cam(network: nn.Module, layer: str, pixels: Tensor, channel: int, _name: str) -> Tensor:
    (linear,) = (module for module in network.modules() if isinstance(module, nn.Linear))
    activation, _ = looked_at(network, layer, pixels, channel)
    return weighted(linear.weight[channel].detach(), activation)


def smooth_grad_cam_plus_plus(network: nn.Module, layer: str, pixels: Tensor, channel: int, name: str) -> Tensor:
    own, _ = looked_at(network, layer, pixels, channel)
    seen = []
    for number in range(4):
        added = 0.3 * noise([f"{name}\0{number}"], pixels.numel()).view_as(pixels)
        seen.append(looked_at(network, layer, pixels + added.to(pixels.dtype), channel))
    gradients = torch.cat([gradient for _, gradient in seen])
    squared, cubed = ((gradients**power).mean(0) for power in (2, 3))
    alpha = squared / (2 * squared + (cubed * own[0]).sum((1, 2), keepdim=True) + 1e-8)
    activation, gradient = seen[-1]
    return weighted((alpha * gradient[0].relu()).sum((1, 2)), activation)


def enlarged_masks(activation: Tensor, size: tuple[int, int]) -> Tensor:
    """[C, 1, H, W], each channel scaled to [0, 1] and enlarged."""
    low, high = activation.amin((2, 3), keepdim=True), activation.amax((2, 3), keepdim=True)
    scaled = (activation - low) / (high - low + 1e-8)
    return F.interpolate(scaled, size, mode="bilinear", align_corners=False)[0][:, None]


@torch.no_grad()
def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([network(batch) for batch in images.split(BATCH)])


def iscam(network: nn.Module, layer: str, pixels: Tensor, channel: int, _name: str) -> Tensor:
    activation, _ = looked_at(network, layer, pixels, channel)
    masks = enlarged_masks(activation, pixels.shape[2:])
    raised = []
    for number in range(1, 11):
        factor = sum(range(1, number + 1)) / 10
        raised.append(logits_of(network, pixels * masks * factor)[:, channel])
    return weighted(torch.stack(raised).mean(0).softmax(0), activation)


def sscam(network: nn.Module, layer: str, pixels: Tensor, channel: int, name: str) -> Tensor:
    activation, _ = looked_at(network, layer, pixels, channel)
    masks = enlarged_masks(activation, pixels.shape[2:])
    raised = []
    for number in range(35):
        names = [f"{name}\0{layer}\0{at}\0{number}" for at in range(len(masks))]
        added = 2 * noise(names, masks[0].numel()).view_as(masks).to(masks.dtype)
        raised.append(logits_of(network, pixels * (masks + added))[:, channel])
    return weighted(torch.stack(raised).mean(0).softmax(0), activation)


def blurred(pixels: Tensor) -> Tensor:
    """By a Gaussian of deviation 50, 51 pixels wide, the image mirrored at its border."""
    radius = min(25, *(side - 1 for side in pixels.shape[2:]))
    bell = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * 50.0**2))
    kernel = torch.outer(bell, bell) / bell.sum() ** 2
    channels = pixels.shape[1]
    kernel = kernel.to(pixels.dtype).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(pixels, (radius,) * 4, mode="reflect"), kernel, groups=channels)


def groupcam(network: nn.Module, layer: str, pixels: Tensor, channel: int, _name: str) -> Tensor:
    activation, gradient = looked_at(network, layer, pixels, channel)
    groups = (gradient.mean((2, 3), keepdim=True) * activation).chunk(32, 1)
    without = blurred(pixels)
    nothing = logits_of(network, without).softmax(1)[0, channel]
    total = torch.zeros(pixels.shape[2:], dtype=pixels.dtype)
    for group in groups:
        mask = group.sum(1, keepdim=True).relu()
        mask = torch.where(mask > np.percentile(mask.numpy(), 70), mask, 0)
        mask = F.interpolate(mask, pixels.shape[2:], mode="bilinear", align_corners=False)
        if mask.max() == mask.min():
            continue
        mask = (mask - mask.min()) / (mask.max() - mask.min())
        shown = logits_of(network, pixels * mask + without * (1 - mask)).softmax(1)[0, channel]
        total += (shown - nothing) * mask[0, 0]
    return total


METHODS = {
    "cam": cam,
    "smoothgradcam++": smooth_grad_cam_plus_plus,
    "sscam": sscam,
    "iscam": iscam,
    "groupcam": groupcam,
}


def heatmap(saliency: Tensor) -> np.ndarray:
    """At the map's own size, as camflow scales it: before and after the resizing that is none here."""
    scaled = saliency.relu()
    for _ in range(2):
        shifted = scaled - scaled.min()
        scaled = shifted / (shifted.max() + 1e-7)
    return scaled.numpy()
