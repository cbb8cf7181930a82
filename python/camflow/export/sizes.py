"""Other sizes of images than the example's: which a model takes, and how its tokens follow them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from .layers import Shapes, Size, Tokens, is_tokens, num_tokens, observe

if TYPE_CHECKING:
    from torch import nn

MULTIPLES = (1, 2, 4, 7, 8, 14, 16, 28, 32, 64)  # that networks want the sides of images to be of: halving, and patches of 14


def stride_of(tokens: Tokens, example: Size, seen: Collection[tuple[Size, int]]) -> Tokens | None:
    """`tokens` with the "stride" and "round" that give its grid from the image's size, or None where nothing does.

    `example` is the (height, width) of its grid; `seen` are other ((height, width), number of tokens).
    """

    def candidates(length: int, cells: int) -> set[int]:
        return {length // cells, -(-length // cells)} - {0}

    rounding: dict[str, Callable[[int, int], int]] = {
        "ceil": lambda length, stride: -(-length // stride),
        "floor": lambda length, stride: length // stride,
    }
    pairs = [(v, h) for v in candidates(example[0], tokens["grid"][0]) for h in candidates(example[1], tokens["grid"][1])]
    for stride in sorted(pairs, key=lambda pair: (pair[0] != pair[1], pair)):
        for name, cells in rounding.items():
            grid = [cells(length, step) for length, step in zip(example, stride, strict=True)]
            if grid == list(tokens["grid"]) and all(
                cells(size[0], stride[0]) * cells(size[1], stride[1]) + tokens.get("prefix", 0) == count for size, count in seen
            ):
                return {**tokens, "stride": list(stride), "round": name}
    return None


def size_multiple(module: nn.Module, size: Sequence[int], channels: int) -> int | None:
    """The least of MULTIPLES whose odd multiples near `size` the module takes as an image's sides; None if none does."""
    import torch

    for of in MULTIPLES:
        height, width = ((max(side // of, 2) | 1) * of for side in size)
        with contextlib.suppress(Exception), torch.no_grad():  # it says which sizes it takes by raising
            module(torch.zeros(1, channels, height, width))
            return of
    return None


def other_sizes(height: int, width: int) -> tuple[list[Size], list[Size]]:
    """Two pairs of image sizes for checks: odd ones, and ones in steps of 32 for models that take nothing else."""
    odd = [(height * 9 // 8 | 1, width * 7 // 8 | 1), (height * 7 // 8 | 1, width * 5 // 4 | 1)]
    return odd, [(height + 32, width - 32 if width > 64 else width), (height, width + 64)]


def follow_sizes(module: nn.Module, meta: dict[str, Any], given: Collection[str]) -> None:
    """Where the image's size is free, tokens lie on a grid that follows it: records how, as seen at other sizes.

    Layers whose number of tokens does not follow (a detector's queries) are none to draw, unless the user says they are.
    """
    import torch

    of_tokens = [layer for layer in meta["layers"] if is_tokens(layer)]
    if not of_tokens:
        return
    height, width = meta["input"]["example"][2:]
    size: Size = (height, width)
    seen: list[tuple[Size, Shapes]] = []
    for pair in other_sizes(height, width):
        with contextlib.suppress(Exception):  # it says which sizes it takes by raising; verify() tells the user
            seen = [(other, observe(module, torch.zeros(1, meta["input"]["example"][1], *other))[0]) for other in pair]
            break
    if meta["tokens"]:
        # those of the embedding itself: a convolution without padding covers whole patches only
        plain = next((layer for layer in of_tokens if "tokens" not in layer), None)
        counts = [(other, num_tokens(plain, shape)) for other, shapes in seen if plain and (shape := shapes[plain["path"]])]
        meta["tokens"] = stride_of(meta["tokens"], size, counts) or meta["tokens"]
    for layer in of_tokens:
        if "tokens" in layer:
            counts = [(other, num_tokens(layer, shapes.get(layer["path"]) or [0, 0])) for other, shapes in seen]
            followed = stride_of(layer["tokens"], size, counts)
            if followed is None and layer["path"] not in given:
                meta["layers"].remove(layer)
            layer["tokens"] = followed or layer["tokens"]
