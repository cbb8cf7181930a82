"""Programs in files of `torch.export.save`."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..constants import of_program, split_example
from ..file_kinds import described, kind_of
from ..messages import ExportError, first_line
from ..preprocess import MAX_CHANNELS
from . import LoadedModel

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _name_modules(program: ExportedProgram) -> None:
    """Names modules by their paths where torch up to 2.7 did it by expressions, as for a `forward` that calls `self` otherwise.

    `getattr(L['net'].layer1, '0')` is `layer1.0`.
    """

    def path_of(name: str) -> str:
        while found := re.fullmatch(r"getattr\((.*), '([^']*)'\)(.*)", name):
            name = f"{found[1]}.{found[2]}{found[3]}"
        return re.sub(r"^L\['\w+'\]\.", "", name)

    for node in program.graph.nodes:
        if stack := node.meta.get("nn_module_stack"):
            node.meta["nn_module_stack"] = {key: (path_of(name), kind) for key, (name, kind) in stack.items()}


def load(path: str) -> LoadedModel:
    """A program of `torch.export.save`; what other files are is said.

    Raises:
        ExportError: there is no such file, it is of another kind, or its program does not take one tensor of images [N, C, H, W].
    """
    import torch

    if not Path(path).is_file():
        raise ExportError(f"there is no file `{path}`", code=2)
    if kind_of(path) != "export":
        what, hint = described(path)
        raise ExportError(
            f"`{path}` {what}",
            hint or "MODEL is a model's name, `file.py:function` or a `.pt2` file of `torch.export.save`",
            code=2,
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Of a file of an older torch it logs how it failed to read it as one of today.
            log = logging.getLogger("torch.export")
            log.addFilter(_is_error)
            try:
                program = torch.export.load(path)
            finally:
                log.removeFilter(_is_error)
            _name_modules(program)
            module = torch.export.unflatten(program)
    except Exception as error:
        raise ExportError(
            f"`torch.export.load` cannot read `{path}`: {first_line(error)}", "it may be of another version of torch"
        ) from error
    names = [name for name in program.graph_signature.user_inputs if isinstance(name, str)]
    arguments, keywords = program.example_inputs or ((), {})
    image = 0
    if len(names) > 1 and len(arguments) == len(names) and not keywords:
        image, constants = split_example(path, names, list(arguments))
        of_program(module, image, constants)
        names = [names[image]]
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    shapes = [
        [int(side) if isinstance(side, int) else None for side in value.shape]
        for value in inputs
        if isinstance(value, torch.Tensor)
    ]
    if len(inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 4:
        raise ExportError(
            f"`{path}` takes {len(inputs)} inputs{f' of shape {shapes[0]}' if shapes else ''}, not one tensor of images [N, C, H, W]",
            code=2,
        )
    if (shapes[0][1] or 1) > MAX_CHANNELS:
        raise ExportError(f"`{path}` takes images of {shapes[0][1]} channels: camflow feeds up to {MAX_CHANNELS}", code=2)
    example = arguments[image] if arguments else None
    sides = (
        list(example.shape)
        if isinstance(example, torch.Tensor)
        else [side or fallback for side, fallback in zip(shapes[0], (2, 3, 224, 224))]
    )
    return LoadedModel(
        module, Path(path).stem, f"file:{Path(path).name}", {"example": sides, "fixed": [side is not None for side in shapes[0]]}
    )
