"""Which network a checkpoint is of: as it says itself, or as the names and shapes of its weights tell."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from .loaders import timm, torchvision, without_weights
from .messages import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn

# Name of a weight -> its shape.
Shapes = dict[str, tuple[int, ...]]


def stated(content: object) -> str | None:
    """The network that a checkpoint names, as timm's training does, or None."""
    if not isinstance(content, dict) or not isinstance(content.get("arch"), str):
        return None
    try:
        return f"timm:{content['arch']}" if timm.library().is_model(content["arch"]) else None
    except ExportError:
        return None


def nearest(state: dict[str, Tensor]) -> tuple[str, int, int] | None:
    """(name, weights that it shares by name and shape, weights that it has) of the network nearest to `state`, or None.

    Networks of torchvision and timm are made without memory for their weights; it takes up to half a minute.
    """
    wanted = {key: tuple(value.shape) for key, value in state.items()}
    best: tuple[float, str, int, int] | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, shapes in _candidates(wanted):
            shared = sum(wanted.get(key) == shape for key, shape in shapes.items())
            share = shared / len(set(wanted) | set(shapes))
            if best is None or share > best[0]:
                best = share, name, shared, len(shapes)
            if shared >= len(shapes) - 2 and len(shapes) == len(wanted):
                break  # all but its head
    return best[1:] if best and best[0] > 0.5 else None


def _candidates(wanted: Shapes) -> Iterator[tuple[str, Shapes]]:
    import torchvision.models as tvm

    for name in torchvision.names():
        build = tvm.get_model_builder(name)
        if not any(kind in build.__module__ for kind in ("detection", "quantization", "video", "optical_flow")):
            yield from _made(f"torchvision:{name}", lambda build=build: without_weights(build))  # type: ignore[misc]
    try:
        library = timm.library()
    except ExportError:
        return
    patterns = {re.sub(r"\d+", "#", key) for key in wanted}
    families: dict[str, float] = {}
    for family in library.list_modules():
        names = library.list_models(module=family)
        for _, shapes in _made(family, lambda names=names: library.create_model(min(names, key=len))) if names else ():  # type: ignore[misc]
            theirs = {re.sub(r"\d+", "#", key) for key in shapes}
            families[family] = len(patterns & theirs) / len(patterns | theirs)
    for family in sorted(families, key=lambda family: -families[family])[:2]:
        for name in sorted(library.list_models(module=family), key=len):
            yield from _made(f"timm:{name}", lambda name=name: library.create_model(name))  # type: ignore[misc]


def _made(name: str, build: Callable[[], nn.Module]) -> Iterator[tuple[str, Shapes]]:
    """`name` with the shapes of its weights; nothing where it cannot be made without memory."""
    import torch

    with contextlib.suppress(Exception), torch.device("meta"):  # any of a thousand constructors may want real numbers
        yield name, {key: tuple(value.shape) for key, value in build().state_dict().items()}
