"""From what the user names to a module with what is known about it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .classes import classes_by_channel
from .constants import fix_inputs
from .file_kinds import is_of_ultralytics, kind_of
from .known import known_metadata, unshare, unwrap
from .loaders import (
    LoadedModel,
    Metadata,
    TextTower,
    function,
    hugging_face,
    program,
    rfdetr,
    smp,
    timm,
    torchvision,
    torchvision_detectors,
    ultralytics,
    zoo,
)
from .messages import ExportError, first_line, say, unknown
from .preprocess import Step, checked_steps, with_normalization
from .texts import described
from .weights import fit_channels, fit_names, head_classes, load_state, read_checkpoint, said_of_nearest

if TYPE_CHECKING:
    from torch import nn

METADATA_KEYS = {
    *("task", "classes", "preprocess", "aliases", "default_layers", "layers", "tokens", "primary_output", "example", "inputs"),
    "detections",
}
TASKS = ("classification", "segmentation", "regression", "embedding", "detection", "other")
LIBRARIES: dict[str, Callable[..., LoadedModel]] = {
    "fiftyone": zoo.load,
    "torchvision": torchvision.load,
    "timm": timm.load,
    "smp": smp.load,
    "hf": hugging_face.load,
    "rfdetr": rfdetr.load,
    "ultralytics": ultralytics.load,
}
TEXTS = ("fiftyone", "hf", "ultralytics")  # libraries with models that score texts
TOWERS = ("fiftyone", "hf")  # and with image towers that texts are laid beside later
FILES = (
    ".pt2",
    ".pt",
    ".pth",
    ".onnx",
    ".ckpt",
    ".safetensors",
    ".tar",
    ".bin",
)  # what ends so is a file, also where there is none
MIN_TORCH = (2, 9)  # the oldest whose archives were tried


def load_model(
    ref: str | nn.Module,
    weights: str = "default",
    seed: int = 0,
    num_classes: int | None = None,
    classes: Mapping[Any, Any] | Iterable[Any] | None = None,
    preprocess: list[Step] | None = None,
    prompt: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    task: str | None = None,
) -> LoadedModel:
    """Load what `ref` names (a name, `module:function`, `file.py:function`, a file or folder), or is, as a `LoadedModel`.

    `weights`: "default" (the published ones, downloaded if need be), "none" (random, drawn from `seed`) or a file.
    `classes` (names by channel) and `preprocess` (steps) go before what the model says; steps without `normalize` are normalised as
    the model says. Of `classes` and `prompt` ("{}" stands
    for the class) come the texts that CLIP-like models score. `inputs` are what the forward takes beside the image, by name, the same
    for all images. `task` says what the output means (TASKS), before what the model says.

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
    checkpoint = None if weights in ("default", "none") else read_checkpoint(weights)
    if isinstance(ref, str) and weights == "default" and _is_checkpoint(ref):
        weights, checkpoint = ref, read_checkpoint(ref)
        ref = _network_of(ref, checkpoint)
    torch.manual_seed(seed)
    texts: dict[str, Any] = {"classes": list(classes_by_channel(classes).values()), "prompt": prompt}
    if task == "embedding" and classes is None:
        texts["is_tower"] = True
    # Without weights a library makes the network for as many classes as are named.
    made_for = num_classes or (weights == "none" and len(texts["classes"])) or None
    library, name, loaded = _found(ref, weights, made_for, texts)
    if loaded.texts is not None:
        _describe_texts(loaded, loaded.texts, weights, seed, prompt)
    elif prompt is not None and "camflow_texts" not in dict(loaded.module.named_buffers()):
        raise ExportError("`--prompt` is for models that score texts, which this one does not", code=2)
    ref = ref if isinstance(ref, str) else type(ref).__name__
    if not library and num_classes:
        raise ExportError(
            f"`--num-classes` is for models that a library makes: `{ref}` makes its own network",
            "make it for as many classes there",
            code=2,
        )
    num_classes = made_for if library else None
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
    if checkpoint:
        state, names, _ = checkpoint
        state = fit_names(state, loaded.module.state_dict(), weights)
        channels = fit_channels(loaded.module, state) if library else None
        usual = len(loaded.metadata["classes"]) if torchvision_detectors.kind_of(loaded.module) else None
        count = None if num_classes or not library else head_classes(state, loaded.module.state_dict(), usual)
        if library and count:
            say(f"note: `{weights}` is for {count} classes, and so is the network")
            loaded, num_classes = _from_library(library, name, weights, count, texts), count
            fit_channels(loaded.module, state)
        if channels:
            say(f"note: `{weights}` is for images of {channels} channels, and so is the network")
            loaded.metadata.pop("preprocess", None)  # of images of three
        load_state(loaded.module, state, weights)
        if library and not preprocess and loaded.metadata.get("preprocess"):
            say(f"note: images are preprocessed as for the published weights of `{name}`; `--preprocess` says otherwise")
        if names and classes is None:
            say(f"note: names of classes as in `{weights}`")
            loaded.metadata["classes"] = classes_by_channel(names)
        elif library and not num_classes and classes is None:
            say(f"note: names of classes are those of the published weights of `{name}`; `--classes` gives others")
    if torchvision_detectors.kind_of(loaded.module):
        loaded.metadata |= torchvision_detectors.adapt(loaded.module)
    loaded.module.to("cpu", torch.float32).eval().requires_grad_(False)
    unshare(loaded.module)
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
    if task is not None:
        loaded.metadata["task"] = task
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
    numbered = loaded.metadata.pop("numbered", {})
    if numbered and not loaded.metadata.get("classes"):
        loaded.metadata |= {"classes": numbered, "unnamed_channels": True}
    fix_inputs(loaded.module, {**loaded.metadata.pop("inputs", {}), **(inputs or {})}, ref)
    if preprocess is not None:
        steps = checked_steps(preprocess, where="`--preprocess`")
        loaded.metadata["preprocess"] = with_normalization(steps, loaded.metadata.get("preprocess"))
    if weights == "none":
        loaded.metadata["seed"] = seed
    return loaded


def _fitting(library: str, texts: dict[str, Any]) -> dict[str, Any]:
    """What a library's loader is told about texts."""
    return {key: value for key, value in texts.items() if library in (TOWERS if key == "is_tower" else TEXTS)}


def _describe_texts(loaded: LoadedModel, tower: TextTower, weights: str, seed: int, prompt: str | None) -> None:
    """Says in the metadata of an image tower how texts are embedded and scored, and takes the prompt that was given.

    Raises:
        ExportError: the weights are those of the image tower alone.
    """
    if weights not in ("default", "none"):
        raise ExportError(
            f"`{weights}` would go to the image tower, and texts would be embedded with other weights",
            "export the folder or the name of the whole model",
            code=2,
        )
    if prompt is not None:
        tower = loaded.texts = dataclasses.replace(tower, prompt=prompt)
    source = loaded.source
    if source.startswith("hf:") and Path(source[3:]).is_dir():
        source = f"hf:{Path(source[3:]).resolve()}"
    loaded.metadata["texts"] = described(tower, source, weights, seed)


def find_library(name: str) -> tuple[str, str]:
    """(library, name there) of an unprefixed name. torchvision goes before timm, as in FiftyOne's own zoo.

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
        return "fiftyone", name
    if name in in_torchvision:
        if in_timm:
            say(f"`{name}` is in torchvision and in timm: taking torchvision's (`timm:{name}` for the other)")
        return "torchvision", name
    if in_timm:
        return "timm", name
    if whole := zoo.whole_name(name):
        say(f"note: `{name}` is taken for `{whole}` of FiftyOne's zoo")
        return "fiftyone", whole
    raise unknown(name, [*in_zoo, *in_torchvision, *timm_names])


def _is_checkpoint(ref: str) -> bool:
    return Path(ref).is_file() and kind_of(ref) in ("torch", "safetensors")


def _network_of(path: str, checkpoint: tuple[Any, Any, str | None]) -> str:
    """The network that the checkpoint names.

    Raises:
        ExportError: it names none.
    """
    if is_of_ultralytics(path):
        raise ExportError(
            f"`{path}` is a model of Ultralytics, which holds code beside its weights",
            f"`camflow export ultralytics:{path}` loads it with that library, which runs its code: only for files that you trust",
            code=2,
        )
    config = Path(path).resolve().parent / "config.json"
    if checkpoint[2]:
        say(f"note: `{path}` says that its network is `{checkpoint[2]}`")
        return checkpoint[2]
    raise ExportError(
        f"`{path}` is a checkpoint: weights without a network, and it does not say of which",
        f"`camflow export {config.parent}` takes the folder that it lies in"
        if config.is_file()
        else f"name it: `--arch LIBRARY:NAME`; {said_of_nearest(checkpoint[0], path)}",
        code=2,
    )


def _found(
    ref: str | nn.Module, weights: str, num_classes: int | None, texts: dict[str, Any]
) -> tuple[str | None, str, LoadedModel]:
    """(library or None, name there, the model) of what `load_model` is given."""
    if not isinstance(ref, str):
        return None, "", zoo.of_object(ref, texts)
    prefix, _, rest = ref.partition(":")
    library = {"hf-hub": "hf"}.get(prefix, prefix)
    if rest and library in LIBRARIES:
        return library, rest, _from_library(library, rest, weights, num_classes, texts)
    if Path(ref).is_file() or (not rest and ref.endswith(FILES)):
        if not Path(ref).is_file() and (whole := zoo.whole_name(Path(ref).stem)):
            raise ExportError(
                f"there is no file `{ref}`", f"`{whole}` is the name of that model in FiftyOne's zoo, with its weights", code=2
            )
        return None, ref, program.load(ref)
    if Path(ref).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", ref):
        return "hf", ref, _from_library("hf", ref, weights, num_classes, texts)
    if rest:
        return None, ref, function.load(ref)
    library, name = find_library(ref)
    return library, name, _from_library(library, name, weights, num_classes, texts)


def _from_library(library: str, name: str, weights: str, num_classes: int | None, texts: dict[str, Any]) -> LoadedModel:
    if num_classes and weights == "default":
        raise ExportError(
            f"`--num-classes {num_classes}` with published weights would leave the head random",
            "give the checkpoint that was trained for them: `--checkpoint FILE`",
            code=2,
        )
    try:
        loaded = LIBRARIES[library](name, weights, num_classes, **_fitting(library, texts))
    except (OSError, ConnectionError) as error:  # URLError is an OSError: no network, no such file, disk full
        raise ExportError(
            f"could not load `{name}` from {library}: {first_line(error)}",
            "without a network: `--checkpoint FILE` takes weights that were downloaded, `--weights none` random ones",
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
    if given.get("task", TASKS[0]) not in TASKS:
        raise ExportError(
            f"`camflow_metadata` of `{ref}` has the task `{given['task']}`", f"known are {', '.join(TASKS)}", code=2
        )
    if "preprocess" in given:
        given["preprocess"] = checked_steps(given["preprocess"], where=f"`preprocess` in `camflow_metadata` of `{ref}`")
    if "classes" in given:
        given["classes"] = classes_by_channel(given["classes"])
    return given
