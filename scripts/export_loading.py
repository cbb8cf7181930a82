"""From what the user names to a module with what is known about it."""

import importlib
import importlib.util
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

from export_files import described, kind_of
from export_known import known_metadata, unwrap
from export_libraries import LoadedModel, find_library, load_timm, load_torchvision, load_zoo
from export_messages import ExportError, first_line, say
from export_preprocess import checked_steps
from export_weights import fit_names, head_classes, load_state, read_checkpoint

METADATA_KEYS = {"task", "classes", "preprocess", "aliases", "default_layers", "layers", "tokens", "primary_output", "example"}
LIBRARIES = {"fiftyone": load_zoo, "torchvision": load_torchvision, "timm": load_timm}
MIN_TORCH = (2, 9)  # the oldest whose archives were tried


def load_model(ref, weights="default", seed=0, num_classes=None, classes=None, preprocess=None):
    """Load what `ref` names (see the module's text) as a `LoadedModel`.

    `weights`: "default" (the published ones, downloaded if need be), "none" (random, drawn from `seed`) or a file.
    `classes` (names by channel) and `preprocess` (steps) go before what the model says.
    """
    import torch

    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MIN_TORCH:
        raise ExportError(f"torch {torch.__version__} is too old: its `torch.export` does not write what camflow reads",
                          f"use a Python with torch {'.'.join(map(str, MIN_TORCH))} or later")
    if weights not in ("default", "none") and not Path(weights).is_file():
        raise ExportError(f"there is no weights file `{weights}`", "give a path, `default` or `none`", code=2)
    torch.manual_seed(seed)
    prefix, _, rest = ref.partition(":")
    library = prefix if rest and prefix in LIBRARIES else None
    name = rest if library else ref
    if library is None and (Path(ref).is_file() or not rest and ref.endswith((".pt2", ".pt", ".pth", ".onnx", ".ckpt", ".safetensors"))):
        loaded = load_file(ref)
    elif library is None and rest:
        loaded = load_function(ref)
    else:
        library = library or find_library(name)
        loaded = _from_library(library, name, weights, num_classes)
    if not library and num_classes:
        raise ExportError(f"`--num-classes` is for models of FiftyOne's zoo, torchvision and timm: `{ref}` makes its own network",
                          "make it for as many classes there", code=2)
    if not isinstance(loaded.module, torch.nn.Module):
        raise ExportError(f"`{ref}` gives a {type(loaded.module).__name__}, not an nn.Module",
                          "it gives weights without a network: make the network in the function, and `load_state_dict` them"
                          if isinstance(loaded.module, dict) else None, code=2)
    if isinstance(loaded.module, torch.jit.ScriptModule):
        raise ExportError(f"`{ref}` gives a TorchScript module, which `torch.export` does not take",
                          "return the nn.Module that it was made from", code=2)
    loaded.module = unwrap(loaded.module)
    if weights not in ("default", "none"):
        state, names = read_checkpoint(weights)
        state = fit_names(state, loaded.module.state_dict(), weights)
        count = None if num_classes or not library else head_classes(state, loaded.module.state_dict())
        if count:
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
    given = _user_metadata(loaded.module, ref)
    known = {} if library else {k: v for k, v in known_metadata(loaded.module).items() if k not in given and k not in loaded.metadata}
    loaded.metadata = {**known, **loaded.metadata, **given, "weights": weights if weights in ("default", "none") else Path(weights).name}
    if "classes" in known:
        loaded.metadata["classes"] = classes_by_channel(loaded.metadata["classes"])
    if classes is not None:
        expected = num_classes or (library and len(loaded.metadata["classes"]))
        loaded.metadata["classes"] = classes_by_channel(classes)
        if expected and len(loaded.metadata["classes"]) != expected:
            raise ExportError(f"`--classes` gives {len(loaded.metadata['classes'])} names, the model has {expected} classes",
                              "name each, in the order of the channels", code=2)
        loaded.metadata["all_classes"] = True
    elif library and num_classes and not loaded.metadata["classes"]:
        say(f"warning: nothing names the {num_classes} classes: `--classes` gives their names, in the order of the channels")
    if preprocess is not None:
        loaded.metadata["preprocess"] = checked_steps(preprocess, where="`--preprocess`")
    if weights == "none":
        loaded.metadata["seed"] = seed
    return loaded


def _from_library(library, name, weights, num_classes):
    if num_classes and weights == "default":
        raise ExportError(f"`--num-classes {num_classes}` with published weights would leave the head random",
                          "give the checkpoint that was trained for them: `--weights PATH`", code=2)
    try:
        loaded = LIBRARIES[library](name, weights, num_classes)
    except (OSError, ConnectionError) as error:  # URLError is an OSError: no network, no such file, disk full
        raise ExportError(f"could not load `{name}` from {library}: {first_line(error)}",
                          "without a network: `--weights PATH` takes a downloaded checkpoint, `--weights none` random weights") from error
    if num_classes:
        loaded.metadata["classes"] = {}  # the published names are those of other classes
    return loaded


def classes_by_channel(classes):
    """{"0": name} of names in order, of names by channel, or of channels by name (`class_to_idx`)."""
    if isinstance(classes, dict) and not all(str(key).isdecimal() for key in classes) and all(isinstance(value, int) for value in classes.values()):
        classes = {channel: name for name, channel in classes.items()}
    pairs = list(classes.items() if isinstance(classes, dict) else enumerate(classes or ()))
    for channel, name in pairs:
        if not str(channel).isdecimal():
            raise ExportError(f"`classes` has the key `{channel}`, which is no number of a channel", "give a list of names, or a dict from channel to name", code=2)
        if len(str(name).encode()) > 1000 or not str(name).isprintable():
            raise ExportError(f"the name {str(name)[:60]!r} of class {channel} is too long or has characters that nobody can see", code=2)
    return {str(int(channel)): str(name) for channel, name in pairs}


def read_classes(text):
    """The names that `--classes` gives: a file (JSON, or one name a line), or names with commas."""
    if not Path(text).is_file():
        names = [name.strip() for name in text.split(",")]
        if not all(names):
            raise ExportError(f"`--classes {text}` has an empty name, and there is no file of that name", "names with commas in them go into a file, one a line", code=2)
        return names
    try:
        content = Path(text).read_text(encoding="utf-8")
        if text.endswith(".json"):
            content = json.loads(content)
            if not isinstance(content, (list, dict)):
                raise ValueError("it is neither a list nor an object")
            return content
    except (OSError, ValueError) as error:
        raise ExportError(f"`--classes`: cannot read `{text}`: {error}", "a list of names as JSON (`.json`), or a text with one name a line", code=2) from None
    return [line.strip() for line in content.splitlines() if line.strip()]


def _user_metadata(module, ref):
    given = getattr(module, "camflow_metadata", None) or {}
    if set(given) - METADATA_KEYS:
        raise ExportError(f"`camflow_metadata` of `{ref}` has unknown keys: {', '.join(sorted(set(given) - METADATA_KEYS))}",
                          f"known are {', '.join(sorted(METADATA_KEYS))}", code=2)
    given = dict(given)
    if "preprocess" in given:
        given["preprocess"] = checked_steps(given["preprocess"], where=f"`preprocess` in `camflow_metadata` of `{ref}`")
    if "classes" in given:
        given["classes"] = classes_by_channel(given["classes"])
    return given


def load_file(path):
    """A program of `torch.export.save`; what other files are is said."""
    import torch

    if not Path(path).is_file():
        raise ExportError(f"there is no file `{path}`", code=2)
    if kind_of(path) != "export":
        what, hint = described(path)
        raise ExportError(f"`{path}` {what}", hint or "MODEL is a model's name, `file.py:function` or a `.pt2` file of `torch.export.save`", code=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path)
            module = torch.export.unflatten(program)
    except Exception as error:
        raise ExportError(f"`torch.export.load` cannot read `{path}`: {first_line(error)}", "it may be of another version of torch") from error
    inputs = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]
    shapes = [[int(side) if isinstance(side, int) else None for side in value.shape] for value in inputs if isinstance(value, torch.Tensor)]
    if len(inputs) != 1 or len(shapes) != 1 or len(shapes[0]) != 4:
        raise ExportError(f"`{path}` takes {len(inputs)} inputs{f' of shape {shapes[0]}' if shapes else ''}, not one tensor of images [N, C, H, W]", code=2)
    if shapes[0][1] not in (1, 3, None):
        raise ExportError(f"`{path}` takes images of {shapes[0][1]} channels: camflow feeds colour (3) or gray (1)", code=2)
    example = program.example_inputs and program.example_inputs[0] and program.example_inputs[0][0]
    sides = list(example.shape) if isinstance(example, torch.Tensor) else [side or fallback for side, fallback in zip(shapes[0], (2, 3, 224, 224))]
    return LoadedModel(module, Path(path).stem, f"file:{Path(path).name}", {"example": sides, "fixed": [side is not None for side in shapes[0]]})


def load_function(ref):
    place, _, function = ref.rpartition(":")
    try:
        if place.endswith(".py"):
            path = Path(place)
            if not path.is_file():
                raise ExportError(f"there is no file `{place}`", code=2)
            sys.path.insert(0, str(path.resolve().parent))  # so that the file can import its neighbours
            spec = importlib.util.spec_from_file_location(path.stem, path)
            namespace = importlib.util.module_from_spec(spec)
            sys.modules[path.stem] = namespace  # dataclasses and pickles look their module up here
            spec.loader.exec_module(namespace)
        else:
            sys.path.insert(0, os.getcwd())
            namespace = importlib.import_module(place)
    except ModuleNotFoundError as error:
        raise ExportError(f"could not import `{place}`: {first_line(error)}",
                          "MODEL is a model's name, `fiftyone:`, `torchvision:` or `timm:` and a name, `module:function` or `file.py:function`", code=2) from error
    if not callable(getattr(namespace, function, None)):
        defined = [n for n, v in vars(namespace).items() if callable(v) and getattr(v, "__module__", None) == namespace.__name__]
        raise ExportError(f"`{place}` has no function `{function}`", f"it defines {', '.join(f'`{n}`' for n in defined[:8]) or 'none'}", code=2)
    source = f"file:{Path(place).name}:{function}" if place.endswith(".py") else f"module:{ref}"
    try:
        return LoadedModel(getattr(namespace, function)(), function, source, {})
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise ExportError(f"`{ref}` raised {type(error).__name__}: {said} ({frame.filename}:{frame.lineno})",
                          "the function is called without arguments and returns an nn.Module") from error
