"""What one changed image tells of layers: whether they depend on the image, and lie over it as their layout says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .layers import Layer, Tokens

if TYPE_CHECKING:
    from torch import Tensor, nn

PLACES = ((0.15, 0.85), (0.85, 0.15))  # of the changed squares: their middles, as shares of height and width
FARTHEST = 0.3  # that the middle of what changed in a layer may lie from the square, as a share of the image
SPREAD = 0.25  # the share of a layer's area that a change may cover and still have a place


def telling(
    module: nn.Module, image: Tensor, layers: Iterable[Layer], tokens: Tokens | None, orders: Sequence[list[int]] = ()
) -> set[str]:
    """Paths of the layers that change with the image, most where the image was changed.

    `orders` are those of tokens in windows.

    A position encoding is the same for every image. Tokens in the order of windows, laid out row by row, change elsewhere.
    A layer that looks at the whole image (behind global attention) changes everywhere; there the place tells nothing, and only a
    change that is plainly elsewhere counts against it.
    """
    layers = list(layers)
    plain = _values(module, image, layers)
    if plain is None:
        return {layer["path"] for layer in layers}  # it cannot be run once more; the archive's own checks say why
    elsewhere = dict.fromkeys(plain, 0)
    height, width = image.shape[2:]
    for down, across in PLACES:
        changed = image.clone()
        top, left = int((down - 0.1) * height), int((across - 0.1) * width)
        changed[:, :, top : int((down + 0.1) * height), left : int((across + 0.1) * width)] += 3.0
        values = _values(module, changed, layers)
        if values is None:
            return set(plain)
        for layer in layers:
            path = layer["path"]
            if path in plain and not _is_there(layer, plain[path], values.get(path), (down, across), tokens, orders):
                elsewhere[path] += 1
    return {path for path, times in elsewhere.items() if times < len(PLACES)}


def _values(module: nn.Module, image: Tensor, layers: Iterable[Layer]) -> dict[str, Tensor] | None:
    import torch

    taken: dict[str, Tensor] = {}
    handles: list[Any] = []
    for layer in layers:

        def take(mod: nn.Module, args: Any, output: Any, path: str = layer["path"]) -> None:
            if path not in taken and isinstance(output, torch.Tensor):
                taken[path] = output.detach().clone()

        handles.append(module.get_submodule(layer["path"]).register_forward_hook(take))
    try:
        with torch.no_grad(), contextlib.suppress(Exception):  # a model may raise anything
            module(image.clone())
            return taken
        return None
    finally:
        for handle in handles:
            handle.remove()


def _is_there(
    layer: Layer,
    plain: Tensor,
    changed: Tensor | None,
    place: tuple[float, float],
    tokens: Tokens | None,
    orders: Sequence[list[int]],
) -> bool:
    """Whether the layer changed, and most of it near `place`."""
    import torch

    if changed is None or changed.shape != plain.shape:
        return False
    gap = (changed - plain).abs()
    if gap.max() <= 1e-6 * max(float(plain.abs().max()), 1e-6):
        return False
    if layer["layout"] == "nchw":
        area = gap.sum((0, 1))
    elif layer["layout"] == "nhwc":
        area = gap.sum((0, 3))
    elif layer["layout"] == "windows":
        windows = layer["windows"]
        per_token = gap.sum(-1).reshape(gap.shape[0] // windows["per_image"], -1).sum(0)
        area = per_token[orders[windows["order"]]].reshape(layer["tokens"]["grid"])
    else:
        how = layer.get("tokens") or tokens
        if not how:
            return True
        rows, columns = how["grid"]
        area = gap.sum((1, 2) if layer["layout"] == "tokens_first" else (0, 2))[how.get("prefix", 0) :][: rows * columns]
        if area.numel() != rows * columns:
            return False
        area = area.reshape(rows, columns)
    if min(area.shape) < 4:
        return True  # a middle cannot be told from a corner there
    # what sticks out of a change of the whole image
    area = (area - area.median()).clamp(min=0) ** 2
    if not torch.isfinite(area).all() or area.sum() <= 0:
        return True
    rows, columns = area.shape
    if area.sum() ** 2 / (area**2).sum() / area.numel() > SPREAD:
        return True
    down = float((area.sum(1) * (torch.arange(rows) + 0.5)).sum() / area.sum() / rows)
    across = float((area.sum(0) * (torch.arange(columns) + 0.5)).sum() / area.sum() / columns)
    return max(abs(down - place[0]), abs(across - place[1])) < FARTHEST
