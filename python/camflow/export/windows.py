"""Tokens in the order of windows: which layers have them, and where each token lies over the image.

Nothing is assumed of how a network makes windows (sizes, shifts, padding, grids of distant places): its tokens are followed, bit for
bit. A module that takes the tokens of a layer before it in another order has them in that order, and so has one that comes after a
module which does nothing but put tokens into that order.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from .evidence import telling
from .layers import Layer, Shapes, Tokens

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from torch import Tensor, nn

# How many of the tensors before a module its tokens are looked for in: they come from the norm before it, or a few modules earlier.
LOOKED_BACK = 16


class Arrangement(NamedTuple):
    """Where the tokens of a module lie."""

    grid: tuple[int, int]  # rows and columns
    order: tuple[int, ...]  # for each place of the grid, row by row, which of the image's tokens lies there
    per_image: int  # rows of the tensor
    leading: tuple[int, ...]  # its shape for two images without the channels


class _Known(NamedTuple):
    """Tokens whose places are known."""

    grid: tuple[int, int]
    places: dict[int, int]  # a token's digest -> its place, those of the second image after those of the first


def windowed(
    module: nn.Module, example: Sequence[int], shapes: Shapes, layers: Iterable[Layer], tokens: Tokens | None
) -> tuple[list[Layer], list[list[int]]]:
    """([layer], [order]) of the modules whose tokens are those of one of `layers` in another order.

    `layers` lie over the image row by row, for an `example` of shape [N, C, H, W]. An entry's `windows` says which of the orders it
    has, and how many rows of its activation are of one image.
    """
    import torch

    beside = {path: shape for path, shape in shapes.items() if path and shape and len(shape) in (3, 4)}
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, *example[1:], generator=generator)
    follower = _Follower(layers, tokens)
    with contextlib.suppress(Exception):  # a model may raise anything; what was found by then holds
        follower.follow(module, pair)
    types = {path: type(mod).__name__ for path, mod in module.named_modules()}
    orders: list[tuple[int, ...]] = []
    found: list[Layer] = []
    for path, arrangement in follower.found.items():
        if path not in beside:
            continue
        if arrangement.order not in orders:
            orders.append(arrangement.order)
        found.append(
            {
                "path": path,
                "type": types[path],
                "shape": beside[path],
                "layout": "windows",
                "tokens": {"grid": list(arrangement.grid), "prefix": 0},
                "windows": {"order": orders.index(arrangement.order), "per_image": arrangement.per_image},
            }
        )
    listed = [list(order) for order in orders]
    seen = telling(module, pair[:1], found, tokens, listed)
    return [layer for layer in found if layer["path"] in seen], listed


class _Follower:
    """Follows the tokens of two images through one run."""

    def __init__(self, layers: Iterable[Layer], tokens: Tokens | None) -> None:
        self.found: dict[str, Arrangement] = {}
        self._layers = {layer["path"]: layer for layer in layers}
        self._tokens = tokens
        self._grids = {rows * columns: (rows, columns) for rows, columns in _grids(self._layers.values())}
        self._known: deque[_Known] = deque(maxlen=LOOKED_BACK)
        # Of each module that is running: where its tokens lie, and the digests of what it was given.
        self._inside: list[tuple[Arrangement | None, list[int]]] = []

    def follow(self, module: nn.Module, pair: Tensor) -> None:
        import torch

        handles: list[Any] = []
        for path, mod in module.named_modules():

            def before(mod: nn.Module, args: Any, kwargs: Any) -> None:
                given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
                outer = self._inside[-1][0] if self._inside else None
                is_tokens = (
                    bool(given) and given[0].is_floating_point() and given[0].ndim in (3, 4) and given[0].shape[0] % 2 == 0
                )
                digests = _digests(given[0]).tolist() if is_tokens else []
                own = self._arrangement(given[0].shape, digests) if is_tokens else None
                self._inside.append((own or outer, digests))

            def after(mod: nn.Module, args: Any, output: Any, path: str = path) -> None:
                arrangement, digests = self._inside.pop()
                if not isinstance(output, torch.Tensor) or not output.is_floating_point():
                    return
                if arrangement and tuple(output.shape[:-1]) == arrangement.leading:
                    self.found.setdefault(path, arrangement)
                    tokens = output.reshape(2, -1, output.shape[-1])[:, list(arrangement.order)]
                    self._remember(tokens, arrangement.grid)
                elif put := self._reordered(digests, output):
                    self.found.setdefault(path, put)
                elif path in self._layers and (laid := _row_by_row(self._layers[path], self._tokens, output)):
                    self._remember(*laid)

            handles.append(mod.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(mod.register_forward_hook(after))
        try:
            with torch.no_grad():
                module(pair)
        finally:
            for handle in handles:
                handle.remove()

    def _reordered(self, digests: Sequence[int], output: Tensor) -> Arrangement | None:
        """Where the tokens of a module's output lie, if it does nothing but put those it is given, row by row, into another order."""
        count = len(digests) // 2
        if count not in self._grids or output.ndim not in (3, 4) or not {*digests}.issuperset(_digests(output[:1, :1]).tolist()):
            return None
        self._known.append(_Known(self._grids[count], {digest: at for at, digest in enumerate(digests)}))
        put = self._arrangement(output.shape, _digests(output).tolist())
        if not put:
            self._known.pop()
        return put

    def _remember(self, tokens: Tensor, grid: tuple[int, int]) -> None:
        """Keeps which token `[2, T, C]` of an image lies where."""
        digests = _digests(tokens).tolist()
        places = {digest: at for at, digest in enumerate(digests)}
        if len(places) == len(digests):  # tokens that are alike cannot be told apart
            self._known.append(_Known(grid, places))

    def _arrangement(self, shape: Sequence[int], digests: Sequence[int]) -> Arrangement | None:
        """Where these tokens lie, if they are known ones in another order; the shape is that of their tensor."""
        if shape[0] % 2:
            return None
        half = len(digests) // 2
        for grid, places in reversed(self._known):
            count = grid[0] * grid[1]
            # of the first image's tokens the first half of the rows, of the second image's the second
            found = [
                {places[one]: at for at, one in enumerate(part) if one in places} for part in (digests[:half], digests[half:])
            ]
            if [*map(len, found)] != [count, count] or sorted(found[0]) != [*range(count)]:
                continue
            order = tuple(found[0][place] for place in range(count))
            if order != tuple(found[1].get(place + count) for place in range(count)):
                continue
            if order == tuple(range(count)) and shape[0] == 2:
                return None  # row by row
            return Arrangement(grid, order, shape[0] // 2, tuple(shape[:-1]))
        return None


def _row_by_row(layer: Layer, tokens: Tokens | None, output: Tensor) -> tuple[Tensor, tuple[int, int]] | None:
    """(tokens [2, T, C], grid) of a layer's output for two images."""
    if layer["layout"] == "nchw":
        return output.flatten(2).transpose(1, 2), (output.shape[2], output.shape[3])
    if layer["layout"] == "nhwc":
        return output.flatten(1, 2), (output.shape[1], output.shape[2])
    how = layer.get("tokens") or tokens
    if not how or layer["layout"] != "tokens":
        return None
    rows, columns = how["grid"]
    prefix = how.get("prefix", 0)
    return output[:, prefix : prefix + rows * columns], (rows, columns)


def _grids(layers: Iterable[Layer]) -> Iterable[tuple[int, int]]:
    """The grids of tokens."""
    for layer in layers:
        if layer["layout"] == "tokens" and "tokens" in layer and not layer["tokens"].get("prefix"):
            rows, columns = layer["tokens"]["grid"]
            yield rows, columns


def _digests(tokens: Tensor) -> NDArray[np.uint64]:
    """A number for each token [..., C], equal where all bits are."""
    import numpy as np

    bits = tokens.detach().float().cpu().reshape(-1, tokens.shape[-1]).contiguous().numpy().view(np.uint32)
    factors = np.random.default_rng(0).integers(1, 2**63, bits.shape[1], dtype=np.uint64) | np.uint64(1)
    digests: NDArray[np.uint64] = (bits.astype(np.uint64) * factors).sum(1)
    return digests
