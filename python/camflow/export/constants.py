"""Inputs beside the image, which are the same for all images: a model is explained for one value of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .messages import ExportError, first_line, say

if TYPE_CHECKING:
    from torch import Tensor, nn

P = inspect.Parameter


def read_input(text: str) -> tuple[str, Any]:
    """`NAME=VALUE` as (name, value): a number, true, false, none, a list of numbers (a tensor), or the tensor in a `.npy` file.

    Raises:
        ExportError: it is none of these, or the file cannot be read.
    """
    import numpy as np

    import torch

    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ExportError(f"`--input {text}` is no input", "write NAME=VALUE, with a name of `forward`", code=2)
    if value.endswith(".npy"):
        try:
            return name, torch.from_numpy(np.load(value))
        except (OSError, ValueError, TypeError) as error:
            raise ExportError(f"`--input {text}`: `{value}` cannot be read: {first_line(error)}", code=2) from error
    try:
        found = json.loads({"none": "null"}.get(value.lower(), value.lower()))
        return name, torch.tensor(found) if isinstance(found, list) else found
    except (ValueError, TypeError):
        raise ExportError(
            f"`--input {text}`: `{value}` is no value",
            "give a number, true, false, none, a list such as [0.5], or a `.npy` file",
            code=2,
        ) from None


def fix_inputs(module: nn.Module, given: Mapping[str, Any], ref: str) -> None:
    """Has the module take an image alone, and all else of its forward as `given`. Tensors whose batch is 1 are repeated for each image.

    Raises:
        ExportError: a name is none of the forward's, or more than one input is left.
    """
    import torch

    parameters = inspect.signature(module.forward).parameters
    usual = {name: p for name, p in parameters.items() if p.kind in (P.POSITIONAL_ONLY, P.POSITIONAL_OR_KEYWORD, P.KEYWORD_ONLY)}
    listed = ", ".join(f"`{name}`" for name in usual)
    if unknown := sorted(set(given) - set(usual)):
        raise ExportError(f"the forward of `{ref}` has no input `{unknown[0]}`", f"its inputs are {listed}", code=2)
    needed = [name for name, p in usual.items() if p.default is P.empty and name not in given]
    if len(needed) > 1:
        raise ExportError(
            f"the forward of `{ref}` takes {len(needed)} inputs ({', '.join(f'`{name}`' for name in needed)}), and camflow gives it the image",
            "say what all but the image are, the same for all images: `--input NAME=VALUE`, or `inputs` in `camflow_metadata`",
            code=2,
        )
    if not given:
        return
    image = needed[0] if needed else next((name for name in usual if name not in given), None)
    if image is None:
        raise ExportError(
            f"`--input` says all inputs of `{ref}`, and leaves none for the image", f"its inputs are {listed}", code=2
        )
    constants = {name: torch.as_tensor(value) for name, value in given.items() if hasattr(value, "__array__")}
    for name, value in constants.items():
        module.register_buffer(_buffer(name), value.float() if value.is_floating_point() else value, persistent=False)
    say(
        f"note: the image is `{image}`; for all images {', '.join(f'`{name}` is {_shown(value)}' for name, value in given.items())}"
    )
    kind = type(module)
    positional = [name for name, p in usual.items() if p.kind is P.POSITIONAL_ONLY]

    def forward(self: nn.Module, images: Tensor) -> Any:
        values = {image: images, **given, **{name: for_batch(getattr(self, _buffer(name)), images) for name in constants}}
        first = [values.pop(name) for name in positional if name in values]
        return kind.forward(self, *first, **values)

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})


def _buffer(name: str) -> str:
    return f"camflow_input_{name}"


def _shown(value: Any) -> str:
    return f"a tensor {list(value.shape)}" if hasattr(value, "shape") else repr(value)


def for_batch(value: Tensor, images: Tensor) -> Tensor:
    """A constant for each image [N, C, H, W]: one whose first dimension is 1 is repeated."""
    return value.expand(images.shape[0], *value.shape[1:]) if value.ndim and value.shape[0] == 1 else value


def split_example(path: str, names: list[str], values: list[Any]) -> tuple[int, dict[int, Any]]:
    """Of the example that a program was exported with, the index of the image, and the other inputs by theirs.

    Raises:
        ExportError: not one alone of them is a tensor of images, or another differs from image to image.
    """
    import torch

    images = [
        i for i, value in enumerate(values) if isinstance(value, torch.Tensor) and value.ndim == 4 and value.is_floating_point()
    ]
    if len(images) != 1:
        shapes = ", ".join(f"`{name}` {_shown(value)}" for name, value in zip(names, values, strict=True))
        raise ExportError(
            f"`{path}` takes {len(images)} tensors [N, C, H, W] that might be images: {shapes}",
            "wrap its model in a function that gives all but one: `camflow export file.py:function`",
            code=2,
        )
    constants = {}
    batch = values[images[0]].shape[0]
    for index, value in enumerate(values):
        if index == images[0]:
            continue
        if isinstance(value, torch.Tensor) and value.ndim and value.shape[0] == batch:
            if not all(torch.equal(row, value[0]) for row in value):
                raise ExportError(
                    f"the input `{names[index]}` in the example of `{path}` differs from image to image",
                    "export the program again with an example of which all images have the same one",
                    code=2,
                )
            value = value[:1]
        constants[index] = value
        say(f"note: the input `{names[index]}` of `{path}` is that of its example for all images: {_shown(value)}")
    return images[0], constants


def of_program(module: nn.Module, index: int, constants: Mapping[int, Any]) -> None:
    """Has an unflattened program take an image alone; `index` is the image's place among its inputs, which are positional."""
    import torch

    tensors = {i: value for i, value in constants.items() if isinstance(value, torch.Tensor)}
    for i, value in tensors.items():
        module.register_buffer(_buffer(str(i)), value, persistent=False)
    kind = type(module)

    def forward(self: nn.Module, images: Tensor) -> Any:
        own = {i: getattr(self, _buffer(str(i))) for i in tensors}
        values = {**constants, **{i: for_batch(value, images) for i, value in own.items()}, index: images}
        return kind.forward(self, *(values[i] for i in sorted(values)))

    module.__class__ = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
