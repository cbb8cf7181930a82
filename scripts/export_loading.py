"""From what the user names to a module with what is known about it."""

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from export_libraries import LoadedModel, find_library, load_timm, load_torchvision, load_zoo
from export_messages import ExportError, first_line
from export_preprocess import STEPS
from export_weights import load_state

METADATA_KEYS = {"task", "classes", "preprocess", "aliases", "default_layers", "layers", "tokens", "primary_output", "example"}


def load_model(ref, weights="default", seed=0):
    """Load what `ref` names (see the module's text) as a `LoadedModel`.

    `weights`: "default" (the published ones, downloaded if need be), "none" (random, drawn from `seed`) or a file.
    """
    import torch

    if weights not in ("default", "none") and not Path(weights).is_file():
        raise ExportError(f"there is no weights file `{weights}`", "give a path, `default` or `none`", code=2)
    torch.manual_seed(seed)
    prefix, _, rest = ref.partition(":")
    if rest and prefix not in ("fiftyone", "torchvision", "timm"):
        loaded = load_function(ref)
    else:
        library, name = (prefix, rest) if rest else (None, ref)
        library = library or find_library(name)
        try:
            loaded = {"fiftyone": load_zoo, "torchvision": load_torchvision, "timm": load_timm}[library](name, weights)
        except (OSError, ConnectionError) as error:  # URLError is an OSError: no network, no such file, disk full
            raise ExportError(f"could not load `{name}` from {library}: {first_line(error)}",
                              "without a network: `--weights PATH` takes a downloaded checkpoint, `--weights none` random weights") from error
    if not isinstance(loaded.module, torch.nn.Module):
        raise ExportError(f"`{ref}` gives a {type(loaded.module).__name__}, not an nn.Module", code=2)
    if weights not in ("default", "none"):
        load_state(loaded.module, weights)
    loaded.module.to("cpu", torch.float32).eval().requires_grad_(False)
    loaded.metadata = {**loaded.metadata, **_user_metadata(loaded.module, ref), "weights": weights if weights in ("default", "none") else Path(weights).name}
    if weights == "none":
        loaded.metadata["seed"] = seed
    return loaded


def _user_metadata(module, ref):
    given = getattr(module, "camflow_metadata", None) or {}
    if set(given) - METADATA_KEYS:
        raise ExportError(f"`camflow_metadata` of `{ref}` has unknown keys: {', '.join(sorted(set(given) - METADATA_KEYS))}",
                          f"known are {', '.join(sorted(METADATA_KEYS))}", code=2)
    wrong = [s.get("op") for s in given.get("preprocess", []) if s.get("op") not in STEPS]
    if wrong or [s["op"] for s in given.get("preprocess", [])].count("normalize") > 1:
        raise ExportError(f"`camflow_metadata` of `{ref}` has wrong preprocess steps {wrong or '(two normalize)'}", f"known are {', '.join(sorted(STEPS))}", code=2)
    given = dict(given)
    if "classes" in given:
        classes = given["classes"] or {}
        given["classes"] = {str(k): str(v) for k, v in (classes.items() if isinstance(classes, dict) else enumerate(classes))}
    return given


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
        raise ExportError(f"`{ref}` raised {type(error).__name__}: {said}", "the function is called without arguments and returns an nn.Module") from error
