"""From what the user names to a module with what is known about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .classes import classes_by_channel
from .known import known_metadata, unwrap
from .loaders import LoadedModel, Metadata, function, program, timm, torchvision, zoo
from .messages import ExportError, first_line, say, unknown
from .preprocess import Step, checked_steps
from .weights import fit_names, head_classes, load_state, read_checkpoint

if TYPE_CHECKING:
    from torch import nn

METADATA_KEYS = {"task", "classes", "preprocess", "aliases", "default_layers", "layers", "tokens", "primary_output", "example"}
LIBRARIES = {"fiftyone": zoo.load, "torchvision": torchvision.load, "timm": timm.load}
MIN_TORCH = (2, 9)  # the oldest whose archives were tried


def load_model(
    ref: str,
    weights: str = "default",
    seed: int = 0,
    num_classes: int | None = None,
    classes: Mapping[Any, Any] | Iterable[Any] | None = None,
    preprocess: list[Step] | None = None,
) -> LoadedModel:
    """Load what `ref` names (a name, `module:function`, `file.py:function` or a file) as a `LoadedModel`.

    `weights`: "default" (the published ones, downloaded if need be), "none" (random, drawn from `seed`) or a file.
    `classes` (names by channel) and `preprocess` (steps) go before what the model says.

    Raises:
        ExportError: there is no such model, its weights do not fit, or its metadata cannot be used.
    """
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        raise ExportError(
            f"torch {torch.__version__} is too old: its `torch.export` does not write what camflow reads",
            f"use a Python with torch {'.'.join(map(str, MIN_TORCH))} or later",
        )
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise ExportError(f"there is no weights file `{weights}`", "give a path, `default` or `none`", code=2)
    torch.manual_seed(seed)
    prefix, _, rest = ref.partition(":")
    library = prefix if rest and prefix in LIBRARIES else None
    name = rest if library else ref
    if library is None and (
        Path(ref).is_file() or (not rest and ref.endswith((".pt2", ".pt", ".pth", ".onnx", ".ckpt", ".safetensors")))
    ):
        loaded = program.load(ref)
    elif library is None and rest:
        loaded = function.load(ref)
    else:
        library = library or find_library(name)
        loaded = _from_library(library, name, weights, num_classes)
    if not library and num_classes:
        raise ExportError(
            f"`--num-classes` is for models of FiftyOne's zoo, torchvision and timm: `{ref}` makes its own network",
            "make it for as many classes there",
            code=2,
        )
    if not isinstance(loaded.module, torch.nn.Module):
        raise ExportError(
            f"`{ref}` gives a {type(loaded.module).__name__}, not an nn.Module",
            "it gives weights without a network: make the network in the function, and `load_state_dict` them"
            if isinstance(loaded.module, dict)
            else None,
            code=2,
        )
    if isinstance(loaded.module, torch.jit.ScriptModule):
        raise ExportError(
            f"`{ref}` gives a TorchScript module, which `torch.export` does not take",
            "return the nn.Module that it was made from",
            code=2,
        )
    loaded.module = unwrap(loaded.module)
    if weights not in ("default", "none"):
        state, names = read_checkpoint(weights)
        state = fit_names(state, loaded.module.state_dict(), weights)
        count = None if num_classes or not library else head_classes(state, loaded.module.state_dict())
        if library and count:
            say(f"note: `{weights}` is for {count} classes, and so is the network")
            loaded, num_classes = _from_library(library, name, weights, count), count
        load_state(loaded.module, state, weights)
        if library and not preprocess:
            say(f"note: preprocessing is that of the published weights of `{name}`; `--preprocess` gives another")
        if names and classes is None:
            say(f"note: names of classes as in `{weights}`")
            loaded.metadata["classes"] = classes_by_channel(names)
        elif library and not num_classes and classes is None:
            say(f"note: names of classes are those of the published weights of `{name}`; `--classes` gives others")
    loaded.module.to("cpu", torch.float32).eval().requires_grad_(False)
    given = user_metadata(loaded.module, ref)
    known = (
        {} if library else {k: v for k, v in known_metadata(loaded.module).items() if k not in given and k not in loaded.metadata}
    )
    loaded.metadata = {
        **known,
        **loaded.metadata,
        **given,
        "weights": weights if weights in ("default", "none") else Path(weights).name,
    }
    if "classes" in known:
        loaded.metadata["classes"] = classes_by_channel(loaded.metadata["classes"])
    if classes is not None:
        expected = num_classes or (library and len(loaded.metadata["classes"]))
        loaded.metadata["classes"] = classes_by_channel(classes)
        if expected and len(loaded.metadata["classes"]) != expected:
            raise ExportError(
                f"`--classes` gives {len(loaded.metadata['classes'])} names, the model has {expected} classes",
                "name each, in the order of the channels",
                code=2,
            )
        loaded.metadata["all_classes"] = True
    elif library and num_classes and not loaded.metadata["classes"]:
        say(f"warning: nothing names the {num_classes} classes: `--classes` gives their names, in the order of the channels")
    if preprocess is not None:
        loaded.metadata["preprocess"] = checked_steps(preprocess, where="`--preprocess`")
    if weights == "none":
        loaded.metadata["seed"] = seed
    return loaded


def find_library(name: str) -> str:
    """Which library an unprefixed name belongs to. torchvision goes before timm, as in FiftyOne's own zoo.

    Raises:
        ExportError: none has it.
    """
    in_torchvision, in_zoo = torchvision.names(), zoo.manifest()
    try:
        library = timm.library()
        in_timm, timm_names = library.is_model(name), library.list_models()
    except ExportError:
        in_timm, timm_names = False, []
    if name in in_zoo:
        return "fiftyone"
    if name in in_torchvision:
        if in_timm:
            say(f"`{name}` is in torchvision and in timm: taking torchvision's (`timm:{name}` for the other)")
        return "torchvision"
    if in_timm:
        return "timm"
    raise unknown(name, [*in_zoo, *in_torchvision, *timm_names])


def _from_library(library: str, name: str, weights: str, num_classes: int | None) -> LoadedModel:
    if num_classes and weights == "default":
        raise ExportError(
            f"`--num-classes {num_classes}` with published weights would leave the head random",
            "give the checkpoint that was trained for them: `--weights PATH`",
            code=2,
        )
    try:
        loaded = LIBRARIES[library](name, weights, num_classes)
    except (OSError, ConnectionError) as error:  # URLError is an OSError: no network, no such file, disk full
        raise ExportError(
            f"could not load `{name}` from {library}: {first_line(error)}",
            "without a network: `--weights PATH` takes a downloaded checkpoint, `--weights none` random weights",
        ) from error
    if num_classes:
        loaded.metadata["classes"] = {}  # the published names are those of other classes
    return loaded


def user_metadata(module: nn.Module, ref: str) -> Metadata:
    """What the module itself carries as `camflow_metadata`, checked; `ref` is its name in messages.

    Raises:
        ExportError: a key is unknown, or a value cannot be used.
    """
    given = getattr(module, "camflow_metadata", None) or {}
    if set(given) - METADATA_KEYS:
        raise ExportError(
            f"`camflow_metadata` of `{ref}` has unknown keys: {', '.join(sorted(set(given) - METADATA_KEYS))}",
            f"known are {', '.join(sorted(METADATA_KEYS))}",
            code=2,
        )
    given = dict(given)
    if "preprocess" in given:
        given["preprocess"] = checked_steps(given["preprocess"], where=f"`preprocess` in `camflow_metadata` of `{ref}`")
    if "classes" in given:
        given["classes"] = classes_by_channel(given["classes"])
    return given
