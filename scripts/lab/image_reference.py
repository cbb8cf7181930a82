"""The methods at the image itself in PyTorch, written from their papers, for one image at a time: what camflow's are judged by.

Each gives f32 [H, W] before clipping and scaling, for a network that gives class logits [N, K]. `captum_parity.py` compares these with
Captum's.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from pytorch_grad_cam import GradCAM, GuidedBackpropReLUModel
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import torch
from torch import Tensor, nn

NORMALIZATION = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
GUIDED = ("guided-backprop", "guided-gradcam")
METHODS = ("saliency", "smoothgrad", "integrated-gradients", *GUIDED, "occlusion", "rise")


def heatmap(saliency: Tensor) -> np.ndarray:
    """As all methods are drawn: clipped at 0 and scaled to [0, 1], twice."""
    found = saliency.clamp(min=0)
    for _ in range(2):
        found = found - found.min()
        found = found / (found.max() + 1e-7)
    return found.float().numpy()


def uniform(key: str, places: np.ndarray) -> np.ndarray:
    """Numbers in (0, 1] at these places of what is drawn for a text: SplitMix64 of its FNV-1a hash."""
    state = 0xCBF29CE484222325
    for byte in key.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    mixed = np.uint64(state) + (places.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return ((mixed >> np.uint64(11)) + np.uint64(1)).astype(np.float64) / 2**53


def normals(key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Standard normal numbers, each by Box and Muller's transform of two uniform ones."""
    places = 2 * np.arange(math.prod(shape))
    found = np.sqrt(-2 * np.log(uniform(key, places))) * np.cos(2 * np.pi * uniform(key, places + 1))
    return torch.from_numpy(found.reshape(shape)).to(torch.float32).to(dtype)


def gradients(model: nn.Module, images: Tensor, channel: int) -> Tensor:
    """Of the class's logit in each of the images [B, C, H, W]."""
    found = []
    for image in images.split(8):
        leaf = image.detach().requires_grad_(True)
        found.append(torch.autograd.grad(model(leaf)[:, channel].sum(), leaf)[0])
    return torch.cat(found)


def saliency(model: nn.Module, image: Tensor, channel: int) -> Tensor:
    return gradients(model, image, channel)[0].abs().amax(0)


def noisy(image: Tensor, key: str, count: int) -> Tensor:
    return image + normals(key, (count, *image.shape[1:]), image.dtype) * (0.15 * (image.max() - image.min()))


def smoothgrad(model: nn.Module, image: Tensor, channel: int, key: str, count: int = 25) -> Tensor:
    return gradients(model, noisy(image, key, count), channel).mean(0).abs().sum(0)


def baseline(image: Tensor, name: str) -> Tensor:
    if name == "zero":
        return torch.zeros_like(image)
    if name == "mean":
        return image.mean((2, 3), keepdim=True).expand_as(image)
    # As a black pixel is normalised.
    mean, deviation = (torch.tensor(values, dtype=torch.float32) for values in NORMALIZATION)
    return (-mean / deviation).to(image.dtype)[:, None, None].expand_as(image)


def attributions(model: nn.Module, image: Tensor, channel: int, count: int = 50, name: str = "black") -> Tensor:
    """[C, H, W], whose sum is the difference of the logits of image and baseline."""
    places, weights = np.polynomial.legendre.leggauss(count)
    start = baseline(image, name)
    steps = torch.from_numpy((1 + places) / 2).to(image.dtype)[:, None, None, None]
    found = gradients(model, start + steps * (image - start), channel)
    return (found * torch.from_numpy(weights / 2).to(image.dtype)[:, None, None, None]).sum(0) * (image - start)[0]


def integrated_gradients(model: nn.Module, image: Tensor, channel: int, count: int = 50, name: str = "black") -> Tensor:
    return attributions(model, image, channel, count, name).sum(0)


def guided_backprop(model: nn.Module, image: Tensor, channel: int) -> Tensor:
    found = GuidedBackpropReLUModel(model, "cpu")(image.clone(), channel)
    return torch.from_numpy(np.abs(found).max(2))


def coarse(model: nn.Module, image: Tensor, channel: int, layer: nn.Module) -> Tensor:
    """Grad-CAM's heatmap."""
    with GradCAM(model=model, target_layers=[layer]) as cam:
        return torch.from_numpy(cam(image.clone(), targets=[ClassifierOutputTarget(channel)])[0])


def guided_gradcam(model: nn.Module, image: Tensor, channel: int, layer: nn.Module) -> Tensor:
    return guided_backprop(model, image, channel) * coarse(model, image, channel, layer)


@torch.no_grad()
def occlusion(model: nn.Module, image: Tensor, channel: int, window: int | None = None, name: str = "zero") -> Tensor:
    height, width = image.shape[2:]
    side = window or min(height, width) // 8
    stride = (side + 1) // 2
    start, given = baseline(image, name), model(image)[0, channel]
    total, count = torch.zeros(height, width, dtype=image.dtype), torch.zeros(height, width, dtype=image.dtype)
    for top in range(0, stride * math.ceil((height - side) / stride) + 1, stride):
        for left in range(0, stride * math.ceil((width - side) / stride) + 1, stride):
            covered = torch.zeros(height, width, dtype=torch.bool)
            covered[top : top + side, left : left + side] = True
            total += covered * (given - model(torch.where(covered, start, image))[0, channel])
            count += covered
    return total / count


def masks(height: int, width: int, count: int, cells: int = 7) -> Tensor:
    """f32 [N, 1, H, W], as RISE's authors make them, of the numbers that camflow draws."""
    drawn = uniform("RISE", np.arange(count * (cells**2 + 2))).reshape(count, -1)
    sides = [-(-height // cells), -(-width // cells)]
    grid = torch.from_numpy(drawn[:, :-2] <= 0.5).float().view(count, 1, cells, cells)
    large = nn.functional.interpolate(grid, [(cells + 1) * side for side in sides], mode="bilinear", align_corners=False)
    found = []
    for mask, moves in zip(large, 1 - drawn[:, -2:], strict=True):
        top, left = (int(move * side) for move, side in zip(moves, sides, strict=True))
        found.append(mask[:, top : top + height, left : left + width])
    return torch.stack(found)


@torch.no_grad()
def rise(model: nn.Module, image: Tensor, channel: int, count: int = 4000) -> Tensor:
    shown = masks(*image.shape[2:], count).to(image.dtype)
    sure = torch.cat([model(image * some).softmax(1)[:, channel] for some in shown.split(16)])
    return (sure[:, None, None, None] * shown).mean((0, 1)) / 0.5


def of(
    name: str,
    model: nn.Module,
    image: Tensor,
    channel: int,
    key: str,
    count: int | None,
    layer: nn.Module | None,
    window: int | None = None,
) -> Tensor:
    """Any of the methods; `count` and `window` are those of `--cam-samples` and `--cam-window`."""
    more = {} if count is None else {"count": count}
    methods: dict[str, Callable[[], Tensor]] = {
        "saliency": lambda: saliency(model, image, channel),
        "smoothgrad": lambda: smoothgrad(model, image, channel, key, **more),
        "integrated-gradients": lambda: integrated_gradients(model, image, channel, **more),
        "guided-backprop": lambda: guided_backprop(model, image, channel),
        "guided-gradcam": lambda: guided_gradcam(model, image, channel, layer),
        "occlusion": lambda: occlusion(model, image, channel, window),
        "rise": lambda: rise(model, image, channel, **more),
    }
    return methods[name]()
