"""What modules of the usual libraries say of themselves: normalisation, sizes, names of classes; and what wraps them."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loaders import Metadata
from .messages import ExportError, say
from .preprocess import checked_steps
from .transforms import steps_from_processor, steps_from_transforms

if TYPE_CHECKING:
    from torch import nn

PARALLEL = ("DataParallel", "DistributedDataParallel", "AveragedModel")


def unwrap(module: nn.Module) -> nn.Module:
    """The module without what torch.compile, DataParallel and the like put around it or its children."""
    import torch

    found: set[str] = set()

    def inner(mod: nn.Module) -> nn.Module:
        while True:
            if isinstance(getattr(mod, "_orig_mod", None), torch.nn.Module):
                found.add("torch.compile")
                inside = mod._orig_mod
            elif type(mod).__name__ in PARALLEL and isinstance(getattr(mod, "module", None), torch.nn.Module):
                found.add(type(mod).__name__)
                inside = mod.module
            else:
                return mod
            if "camflow_metadata" in vars(mod):
                inside.camflow_metadata = mod.camflow_metadata
            mod = inside

    module = inner(module)
    for mod in list(module.modules()):
        for name, child in mod.named_children():
            if inner(child) is not child:
                setattr(mod, name, inner(child))
        if getattr(mod, "_compiled_call_impl", None) is not None:  # of `module.compile()`
            found.add("torch.compile")
            mod._compiled_call_impl = None
    if found:
        say(f"note: the model is exported without {' and '.join(sorted(found))} around it")
    return module


def unshare(module: nn.Module) -> None:
    """Gives each path in the module an object of its own, with the same weights.

    Networks share modules without weights (one activation for all their convolutions). torch.export then names each call by the
    path that it went through, and a hook on the one object sees all of them.
    """
    seen: set[int] = {id(module)}

    def visit(parent: nn.Module) -> None:
        for name, child in parent._modules.items():
            if child is None:
                continue
            if id(child) in seen:
                own = copy.copy(child)
                for key, value in vars(own).items():
                    vars(own)[key] = copy.copy(value) if isinstance(value, dict) else value  # of children, and of hooks
                parent._modules[name] = child = own
            seen.add(id(child))
            visit(child)

    visit(module)


def _layers_of_wrappers(module: nn.Module) -> Iterator[nn.Module]:
    """The module, and what it holds as long as that is its only child: a wrapper passes images on as they are."""
    yield module
    while len(children := list(module.children())) == 1:
        module = children[0]
        yield module


def known_metadata(module: nn.Module) -> Metadata:
    """Metadata that a module of timm or Hugging Face carries with it, as far as it says any; with a note for each."""
    found: Metadata = {}
    for mod in _layers_of_wrappers(module):
        for describe in (_of_timm, _of_hugging_face):
            for key, (value, source) in describe(mod).items():
                if value and key not in found:
                    found[key] = value
                    if key != "example":
                        say(
                            f"note: {'names of classes' if key == 'classes' else 'preprocessing'} as in `{source}` of `{type(mod).__name__}`"
                        )
    return found


def _of_timm(module: nn.Module) -> dict[str, tuple[Any, str]]:
    """Key -> (value, where the module has it), of the configuration that timm gives its models."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "data_config", None)
    config = (
        config
        if isinstance(config, dict)
        else vars(config)
        if hasattr(config, "input_size") and hasattr(config, "mean")
        else None
    )
    if not config or "mean" not in config:
        return {}
    import torch

    source = "pretrained_cfg" if getattr(module, "pretrained_cfg", None) else "data_config"
    try:
        from timm import data
    except ImportError:
        return {}
    found: dict[str, tuple[Any, str]] = {}
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)  # as built, which the configuration does not follow
    settings = data.resolve_data_config(args={"img_size": max(size)} if size else {}, pretrained_cfg=config)
    channels = next((mod.in_channels for mod in module.modules() if isinstance(mod, torch.nn.Conv2d)), 3)
    try:
        steps = steps_from_transforms(data.create_transform(**settings, is_training=False))
        found["preprocess"] = checked_steps(steps, channels, f"`{source}`"), source
    except ExportError as error:
        say(f"warning: `{source}` of `{type(module).__name__}` is left out: {error}")
    names = config.get("label_names")
    if not names and source == "pretrained_cfg":
        with contextlib.suppress(AttributeError):
            subset = data.infer_imagenet_subset(module)
            info = subset and data.ImageNetInfo(subset)
            names = [info.index_to_description(i) for i in range(info.num_classes())] if info else None
    if names:
        found["classes"] = dict(enumerate(names)), source
    return found


def _of_hugging_face(module: nn.Module) -> dict[str, tuple[Any, str]]:
    """Key -> (value, where the module has it), of the configuration that Hugging Face gives its models."""
    config = getattr(module, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return {}
    found: dict[str, tuple[Any, str]] = {}
    names = getattr(config, "id2label", None) or {}
    if names and not all(str(name) == f"LABEL_{i}" for i, name in names.items()):  # what a model has whose author named none
        found["classes"] = names, "config.id2label"
    processor = Path(str(getattr(config, "_name_or_path", "") or "")) / "preprocessor_config.json"
    if processor.is_file() and str(processor.parent) != ".":
        try:
            found["preprocess"] = steps_from_processor(json.loads(processor.read_text())), "preprocessor_config.json"
        except ExportError as error:
            say(f"warning: `{processor}` is left out: {error}")
    size = getattr(config, "image_size", None)
    size = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (list, tuple)) and len(size) == 2 else None
    if size:
        found["example"] = size, "config.image_size"
    return found
