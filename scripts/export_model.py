"""Turn a PyTorch model into a camflow model: one `.pt2` archive that holds the graph, the weights and `camflow.json`.

    export_model.py deeplabv3-resnet50-coco-torch            a FiftyOne zoo model      (prefix `fiftyone:` to insist)
    export_model.py resnet50 --weights none                  a torchvision model       (prefix `torchvision:`)
    export_model.py deit_tiny_patch16_224                    a timm model              (prefix `timm:`)
    export_model.py my_models.py:build                       any function that returns an `nn.Module`

A function's module may carry a dict `camflow_metadata` with any of: task, classes, preprocess, aliases, default_layers,
layers, tokens, primary_output, example ([H, W]). What it gives is taken as it is; the rest is found from the module.
`layers` lists paths, or entries {path, layout: nchw | nhwc | tokens, tokens: {grid: [rows, columns], prefix}}.

A model whose forward returns an object (Hugging Face's do) is wrapped by a subclass that returns tensors, one or a dict:

    def segformer():
        class Logits(SegformerForSemanticSegmentation):
            def forward(self, pixel_values):
                return super().forward(pixel_values).logits
        model = Logits.from_pretrained("folder/of/the/checkpoint")
        model.camflow_metadata = {"task": "segmentation", "classes": model.config.id2label, "preprocess": [...]}
        return model

A module around the model does as well; its module paths then begin with the attribute that holds it.

The archive is checked against the model before it gets its name: outputs at several batch and image sizes, and the
value of every layer. Exit codes: 0 written, 1 failed (nothing was replaced), 2 wrong arguments or an unknown model.
As a library: `load_model(ref)` gives a `LoadedModel`, `export(loaded, path)` writes it.
"""

import argparse
import contextlib
import dataclasses
import difflib
import functools
import importlib
import importlib.util
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest.mock
import warnings
import zipfile
from pathlib import Path

FORMAT = 1  # of camflow.json; the reader refuses what it does not know
EXAMPLE_SIZE = (224, 256)  # not square, so that height and width stay apart; 7x8 at stride 32, so that no map is 1 wide
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
METADATA_KEYS = {"task", "classes", "preprocess", "aliases", "default_layers", "layers", "tokens", "primary_output", "example"}
STEPS = {"resize", "resize_smaller", "resize_min", "resize_max", "center_crop", "center_crop_multiple", "normalize"}


class ExportError(Exception):
    """Something the user can act on: a message, an optional hint, and the exit code (2: the request was wrong)."""

    def __init__(self, message, hint=None, code=1):
        super().__init__(message)
        self.hint, self.code = hint, code


@dataclasses.dataclass
class LoadedModel:
    """A model on the CPU in eval mode, its name, where it comes from, and what is known about it (METADATA_KEYS)."""

    module: object
    name: str
    source: str
    metadata: dict


def say(text):
    """Everything for people goes to stderr: stdout belongs to the result."""
    print(text, file=sys.stderr, flush=True)


def first_line(error):
    """The first line with words in it of an exception's message; torch's messages go on for pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


# ---------------------------------------------------------------------------------------------------- preprocessing


def _interpolation(mode):
    value = str(getattr(mode, "value", mode)).lower()
    if value not in INTERPOLATIONS:
        raise ExportError(f"the model's preprocessing resizes with `{value}`, which camflow does not have",
                          f"it has {', '.join(INTERPOLATIONS)}; give `preprocess` in `camflow_metadata` of a function of your own")
    return value


def _resize(op, size, interpolation="bilinear", antialias=True):
    """A resize step. A pair is (height, width); a single number means what `op` makes of it."""
    how = {"interpolation": _interpolation(interpolation), "antialias": antialias is not False}
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    if len(sizes) == 1 or (op != "resize" and sizes[0] == sizes[1]):
        return {"op": "resize_smaller" if op == "resize" else op, "size": sizes[0], **how}
    return {"op": op, "height": sizes[0], "width": sizes[1], **how}


def _crop(size):
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    return {"op": "center_crop", "height": sizes[0], "width": sizes[-1]}


def _normalize(mean=None, std=None):
    # seven digits: timm keeps these as float32 tensors, whose 0.485 reads 0.48500001
    mean, std = ([float(f"{v:.7g}") for v in values] for values in (mean or (0, 0, 0), std or (1, 1, 1)))
    return {"op": "normalize", "mean": mean, "std": std}


def steps_from_zoo_config(config):
    """Preprocess steps of a FiftyOne zoo entry, from its config dict: the order of `TorchImageModel._build_transforms`."""
    get = config.get
    if get("transforms") is not None:
        return steps_from_transforms(get("transforms"))
    if get("transforms_fcn") is not None:
        build = get("transforms_fcn")
        return steps_from_transforms((_attribute(build) if isinstance(build, str) else build)(**(get("transforms_args") or {})))
    if get("raw_inputs"):
        raise ExportError("this zoo model takes a list of raw images, not one tensor",
                          "wrap it in a function that returns a module from [N, 3, H, W] to one tensor: `file.py:function`")
    steps = []
    if get("image_size"):
        # FiftyOne hands the pair to torchvision as it is, which reads it as (height, width)
        steps.append(_resize("resize", get("image_size")))
    elif get("image_dim"):
        steps.append(_resize("resize", get("image_dim")))
    elif get("image_patch_size"):
        if get("image_min_dim"):
            steps.append(_resize("resize_min", get("image_min_dim")))
        steps.append({"op": "center_crop_multiple", "of": int(get("image_patch_size"))})
    else:
        for op, size in (("resize_min", get("image_min_size") or get("image_min_dim")), ("resize_max", get("image_max_size") or get("image_max_dim"))):
            if size:
                steps.append(_resize(op, size))
    return [*steps, _normalize(get("image_mean"), get("image_std"))]


def steps_from_transforms(transform):
    """Preprocess steps from transform objects of torchvision, timm or FiftyOne, recognised by their class."""
    kind = type(transform).__name__
    if kind == "Compose":
        steps = [step for part in transform.transforms for step in steps_from_transforms(part)]
        last = [s for s in steps if s["op"] == "normalize"] or [_normalize()]
        if len(last) > 1 or (last[0] in steps and steps[-1] is not last[0]):
            raise ExportError("the model's preprocessing does not end with its one normalization", "give `preprocess` in `camflow_metadata`")
        return [s for s in steps if s["op"] != "normalize"] + last
    if kind in ("ImageClassification", "SemanticSegmentation"):  # the presets that torchvision's weights carry
        how = transform.interpolation, transform.antialias
        steps = [_resize("resize", transform.resize_size, *how)] if transform.resize_size else []
        crop = [_crop(transform.crop_size)] if kind == "ImageClassification" else []
        return [*steps, *crop, _normalize(transform.mean, transform.std)]
    if kind == "Resize" and getattr(transform, "max_size", None) is None:
        return [_resize("resize", transform.size, transform.interpolation, getattr(transform, "antialias", True))]
    if kind in ("MinResize", "MaxResize"):
        size = transform.min_output_size if kind == "MinResize" else transform.max_output_size
        return [_resize("resize_min" if kind == "MinResize" else "resize_max", size, transform.interpolation or "bilinear")]
    if kind == "PatchSize":
        return [{"op": "center_crop_multiple", "of": int(transform.patch_size)}]
    if kind == "CenterCrop":
        return [_crop(transform.size)]
    if kind == "Normalize":
        flat = [v.flatten().tolist() if hasattr(v, "flatten") else list(v) for v in (transform.mean, transform.std)]
        return [_normalize(*flat)]
    if kind in ("ToTensor", "MaybeToTensor", "PILToTensor", "MaybePILToTensor", "ToPILImage", "ConvertImageDtype", "ToImage", "ToDtype"):
        return []  # conversions to [0, 1]: what a decoded image is already
    raise ExportError(f"the model's preprocessing uses `{kind}`, which camflow does not have",
                      "give `preprocess` in `camflow_metadata` of a function of your own: `file.py:function`")


def fixed_size(steps):
    """(height, width) that the steps always give, or None when it depends on the image."""
    size = None
    for step in steps or ():
        if step["op"] in ("resize", "center_crop"):
            size = step["height"], step["width"]
        elif step["op"] != "normalize":
            size = None
    return size


# ---------------------------------------------------------------------------------------------------------- loading


def _attribute(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _torchvision_names():
    import torchvision

    return torchvision.models.list_models()


def _timm():
    try:
        import timm
    except ImportError:
        raise ExportError("timm is not installed in this Python", "install it with `pip install timm`") from None
    return timm


def zoo_manifest():
    """name -> entry of FiftyOne's zoo of torch models, read without importing FiftyOne (which takes seconds)."""
    spec = importlib.util.find_spec("fiftyone")
    path = spec and spec.origin and Path(spec.origin).parent / "zoo" / "models" / "manifest-torch.json"
    if not path or not path.is_file():
        return {}
    entries = json.loads(path.read_text())["models"]
    return {e["base_name"] + (f"@{e['version']}" if e.get("version") else ""): e for e in entries}


def _find(name):
    """Which library an unprefixed name belongs to. torchvision goes before timm, as in FiftyOne's own zoo."""
    tv, zoo = _torchvision_names(), zoo_manifest()
    try:
        timm = _timm()
        in_timm, timm_names = timm.is_model(name), timm.list_models()
    except ExportError:
        in_timm, timm_names = False, []
    if name in zoo:
        return "fiftyone"
    if name in tv:
        if in_timm:
            say(f"`{name}` is in torchvision and in timm: taking torchvision's (`timm:{name}` for the other)")
        return "torchvision"
    if in_timm:
        return "timm"
    raise unknown(name, [*zoo, *tv, *timm_names])


def unknown(name, names, where="FiftyOne's zoo, torchvision and timm"):
    """The error for a name nobody knows, with the nearest ones."""
    near = difflib.get_close_matches(name, sorted(set(names)), n=4, cutoff=0.5) or [n for n in names if name in n or n in name][:4]
    hint = f"the nearest are {', '.join(f'`{n}`' for n in near)}" if near else "give a model's name or `file.py:function`"
    return ExportError(f"no model `{name}` in {where}", hint, code=2)


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
        loaded = _load_function(ref)
    else:
        library, name = (prefix, rest) if rest else (None, ref)
        library = library or _find(name)
        try:
            loaded = {"fiftyone": _load_zoo, "torchvision": _load_torchvision, "timm": _load_timm}[library](name, weights)
        except (OSError, ConnectionError) as error:  # URLError is an OSError: no network, no such file, disk full
            raise ExportError(f"could not load `{name}` from {library}: {first_line(error)}",
                              "without a network: `--weights PATH` takes a downloaded checkpoint, `--weights none` random weights") from error
    if not isinstance(loaded.module, torch.nn.Module):
        raise ExportError(f"`{ref}` gives a {type(loaded.module).__name__}, not an nn.Module", code=2)
    if weights not in ("default", "none"):
        _load_state(loaded.module, weights)
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


def _load_state(module, path):
    import torch

    try:
        if path.endswith(".safetensors"):
            state = importlib.import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ExportError(f"could not read weights from `{path}`: {first_line(error)}", "a state dict is needed (torch.save or safetensors)") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {k.removeprefix("module."): v for k, v in state.items()}
    if not any(k.startswith("aux_classifier.") for k in module.state_dict()):
        # published segmentation checkpoints carry the auxiliary head, which plays no part in the answer
        state = {k: v for k, v in state.items() if not k.startswith("aux_classifier.")}
    missing, extra = module.load_state_dict(state, strict=False)
    if missing or extra:
        raise ExportError(f"`{path}` does not fit the model: missing {missing[:3]} ({len(missing)}), left over {extra[:3]} ({len(extra)})")


def _without_weights(build, **kwargs):
    """Call a torchvision-like builder so that it downloads nothing (segmentation models fetch a backbone otherwise)."""
    accepted = inspect.signature(build).parameters
    for key in ("weights", "weights_backbone"):
        if key in accepted:
            kwargs[key] = None
    return build(**kwargs)


def _load_torchvision(name, weights):
    import torchvision.models as tvm

    if name not in _torchvision_names():
        raise unknown(name, _torchvision_names(), "torchvision")
    build = tvm.get_model_builder(name)
    kind = build.__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind in ("detection", "quantization", "video", "optical_flow"):
        raise ExportError(f"`{name}` is a {kind} model: camflow explains models from one image tensor to class scores",
                          "wrap the part that you want to explain in a function: `file.py:function`", code=2)
    published = tvm.get_model_weights(name).DEFAULT
    module = tvm.get_model(name, weights=published) if weights == "default" else _without_weights(build)
    categories = published.meta.get("categories", [])
    metadata = {"preprocess": steps_from_transforms(published.transforms()), "task": "segmentation" if kind == "segmentation" else "classification",
                "classes": {str(i): "background" if c == "__background__" else c for i, c in enumerate(categories)}}
    return LoadedModel(module, name, f"torchvision:{name}", metadata)


def _load_timm(name, weights):
    timm = _timm()
    if not timm.is_model(name):
        raise unknown(name, timm.list_models(), "timm")
    module = timm.create_model(name, pretrained=weights == "default")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    subset, classes = timm.data.infer_imagenet_subset(module), {}
    if subset:
        info = timm.data.ImageNetInfo(subset)
        classes = {str(i): info.index_to_description(i) for i in range(info.num_classes())}
    return LoadedModel(module, name, f"timm:{name}", {"preprocess": steps_from_transforms(transform), "task": "classification", "classes": classes})


def _load_zoo(name, weights):
    manifest = zoo_manifest()
    if not manifest:
        raise ExportError("FiftyOne is not installed in this Python", "install it with `pip install fiftyone`, or name a torchvision or timm model")
    if name not in manifest:
        raise unknown(name, manifest, "FiftyOne's zoo")
    deployment = manifest[name]["default_deployment_config_dict"]
    config, kind = deployment["config"], deployment["type"].rpartition(".")[2]
    if kind not in ("TorchvisionImageModel", "TorchImageModel") or ".detection." in str(config.get("entrypoint_fcn")):
        raise ExportError(f"`{name}` is a {kind} with preprocessing or outputs of its own, which camflow cannot read",
                          "wrap its network in a function that returns a module from [N, 3, H, W] to scores: `file.py:function`", code=2)
    metadata = zoo_metadata(config)
    if weights == "default":
        import fiftyone as fo
        import fiftyone.zoo as foz
        from torchvision.models import _api

        # FiftyOne (1.22) puts the checkpoint into its own folder and then misses it: torchvision looks into torch's cache
        # and downloads the file again. Point torchvision at FiftyOne's folder meanwhile.
        from_zoo = functools.partial(_api.load_state_dict_from_url, model_dir=fo.config.model_zoo_dir)
        with unittest.mock.patch.object(_api, "load_state_dict_from_url", from_zoo):
            # `_model` is the nn.Module inside FiftyOne's wrapper; it has no public name
            module = foz.load_zoo_model(name, device="cpu", cache=False, use_half_precision=False)._model
    else:
        entrypoint = config["entrypoint_fcn"]
        if not entrypoint.startswith("torchvision."):
            raise ExportError(f"`{name}` cannot be built without its published weights", "leave `--weights` at `default`", code=2)
        module = _without_weights(_attribute(entrypoint), **{k: v for k, v in (config.get("entrypoint_args") or {}).items() if k != "weights"})
    return LoadedModel(module, name, f"fiftyone:{name}", metadata)


def zoo_metadata(config):
    """Task, classes and preprocess steps of a zoo config dict. Nothing is downloaded."""
    processor = str(config.get("output_processor_cls"))
    task = next((t for word, t in (("SemanticSegmenter", "segmentation"), ("Classifier", "classification")) if word in processor), None)
    metadata = {"preprocess": steps_from_zoo_config(config), "classes": {}, **({"task": task} if task else {})}

    def labels_map(path):
        # FiftyOne's own functions, because the path has placeholders for folders that only it knows
        import eta.core.learning as etal
        import fiftyone.core.utils as fou

        return etal.load_labels_map(fou.fill_patterns(path)), etal.get_class_labels

    # For masks FiftyOne's list of classes is sorted and lacks the background: only the mask targets follow the channels
    if config.get("mask_targets"):
        metadata["classes"] = {str(k): v for k, v in config["mask_targets"].items()}
    elif config.get("mask_targets_path"):
        metadata["classes"] = {str(k): v for k, v in labels_map(config["mask_targets_path"])[0].items()}
    else:
        names = config.get("classes") or (config["labels_string"].split(",") if config.get("labels_string") else None)
        if names is None and config.get("labels_path"):
            found, as_list = labels_map(config["labels_path"])
            names = as_list(found)
        metadata["classes"] = {str(i): c for i, c in enumerate(names or [])}
    return metadata


def _load_function(ref):
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


def warm_batchnorm(module, passes, size, seed=0):
    """Give batch norms the statistics of `passes` batches of noise, so that a random network's activations stay sane.

    Freshly made running statistics (mean 0, variance 1) let activations grow or die with depth.
    """
    import torch

    norms = [m for m in module.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average: with the usual 0.1 a few passes would leave most of the initial values
        norm.train()  # the norms alone: dropout and auxiliary heads stay as they are when the model is used
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _ in range(passes):
            module(torch.randn(4, 3, *size, generator=noise))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    module.eval()


# ----------------------------------------------------------------------------------------------- looking at the model


def observe(module, example):
    """One eager run with hooks: called modules in order of completion, and which of them can bear a signature.

    Gives ({path: shape of the output tensor, or None}, [paths without signature], the output).
    """
    import torch

    shapes, unfit, handles = {}, set(), []

    def hook(path):
        def record(mod, args, kwargs, output):
            leaves = torch.utils._pytree.tree_leaves((args, kwargs, output))
            if not all(leaf is None or isinstance(leaf, (torch.Tensor, bool, str)) for leaf in leaves):
                unfit.add(path)  # torch.export takes only these in a module's signature
            shapes.pop(path, None)  # the last call counts
            shapes[path] = list(output.shape) if isinstance(output, torch.Tensor) and output.is_floating_point() else None
        return record

    try:
        for path, mod in module.named_modules():
            handles.append(mod.register_forward_hook(hook(path), with_kwargs=True))
        with torch.no_grad():
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
    return shapes, sorted(unfit), output


def feeding(module, example, pick):
    """Paths of the modules whose output the output that `pick` takes has a gradient with respect to; None if it cannot be told.

    camflow takes gradients from any layer on, also behind `detach`, and through frozen weights; so does this.
    """
    import torch

    taken, handles = {}, []

    def hook(path):
        def take(mod, args, output):
            if not isinstance(output, torch.Tensor) or not output.is_floating_point():
                return None
            with torch.enable_grad():
                taken[path] = output if output.requires_grad else output.detach().requires_grad_()
                return taken[path].clone()  # what overwrites it later does so to the copy
        return take

    try:
        for path, mod in module.named_modules():
            if path:
                handles.append(mod.register_forward_hook(hook(path)))
        with torch.enable_grad():
            scores = pick(module(example.clone()))
            if not scores.requires_grad:
                return set()
            found = torch.autograd.grad(scores.sum(), list(taken.values()), allow_unused=True)
        return {path for path, gradient in zip(taken, found) if gradient is not None}
    except Exception as error:  # noqa: BLE001  a model may raise anything, and camflow itself looks at the graph once more
        say(f"warning: which layers feed the output could not be told: {first_line(error)}")
        return None
    finally:
        for handle in handles:
            handle.remove()


def find_layers(module, shapes, example):
    """([layer], tokens): every module whose output is one tensor that can be drawn over the image, with its layout.

    A spatial map has the image's aspect (to a pixel or so); that tells channels first from channels last. `tokens` is how
    the tokens of a plain vision transformer lie over the image; layers whose tokens lie otherwise carry their own.
    """
    import torch

    batch, _, height, width = example
    types = {path: type(mod).__name__ for path, mod in module.named_modules()}
    tokens, layers = None, []
    counts = [s[1] for s in shapes.values() if s and len(s) == 3 and s[0] == batch]
    for path, mod in module.named_modules():
        shape = shapes.get(path)
        if shape and isinstance(mod, torch.nn.Conv2d):
            # A first convolution without overlap is a patch embedding: tokens are its grid and a few before it (class
            # token, registers). Pyramids of tokens start otherwise; their norms at each resolution have other grids.
            usual = max(set(counts), key=counts.count) if counts else 0
            if len(shape) == 4 and mod.kernel_size == mod.stride and mod.stride[0] > 1 and 0 <= usual - shape[2] * shape[3] <= 8:
                tokens = {"grid": shape[2:], "prefix": usual - shape[2] * shape[3], "patch": list(mod.stride)}
            break

    def misfit(h, w):
        return abs(h - height * w / width) if h > 1 and w > 1 else float("inf")

    def layout_of_map(shape):
        first, last = misfit(shape[2], shape[3]), misfit(shape[1], shape[2])
        return None if min(first, last) > 1.5 else "nhwc" if last < first else "nchw"

    # Tokens without others before them are a map that was flattened, or the image cut into squares.
    grids = {}
    for shape in shapes.values():
        layout = layout_of_map(shape) if shape and len(shape) == 4 and shape[0] == batch else None
        if layout:
            rows, columns = shape[2:] if layout == "nchw" else shape[1:3]
            grids.setdefault(rows * columns, [rows, columns])
    for side in range(2, min(height, width) // 2 + 1):
        if height % side == 0 and width % side == 0:
            grids.setdefault(height // side * (width // side), [height // side, width // side])
    if tokens:
        grids[tokens["grid"][0] * tokens["grid"][1] + tokens["prefix"]] = None  # as `tokens` says

    for path, shape in shapes.items():
        if not path or not shape or shape[0] != batch or (re.search(r"(^|\.)\w*att", path) and re.search("Softmax|Dropout", types[path])):
            continue  # attention's inner maps are tokens by tokens, not a picture
        layer = {"path": path, "type": types[path], "shape": shape}
        if len(shape) == 4 and layout_of_map(shape):
            layers.append({**layer, "layout": layout_of_map(shape)})
        elif len(shape) == 3 and shape[1] in grids:
            grid = grids[shape[1]]
            layers.append({**layer, "layout": "tokens", **({"tokens": {"grid": grid, "prefix": 0}} if grid else {})})
    return layers, tokens


def stride_of(tokens, example, seen):
    """`tokens` with the "stride" and "round" that give its grid from the image's size, or None where nothing does.

    `example` is the (height, width) of its grid; `seen` are other ((height, width), number of tokens).
    """
    def candidates(length, cells):
        return {length // cells, -(-length // cells)} - {0}

    rounding = {"ceil": lambda length, stride: -(-length // stride), "floor": lambda length, stride: length // stride}
    pairs = [(v, h) for v in candidates(example[0], tokens["grid"][0]) for h in candidates(example[1], tokens["grid"][1])]
    for stride in sorted(pairs, key=lambda pair: (pair[0] != pair[1], pair)):
        for name, cells in rounding.items():
            grid = [cells(length, step) for length, step in zip(example, stride)]
            if grid == list(tokens["grid"]) and all(
                    cells(size[0], stride[0]) * cells(size[1], stride[1]) + tokens.get("prefix", 0) == count for size, count in seen):
                return {**tokens, "stride": list(stride), "round": name}
    return None


def other_sizes(height, width):
    """Two pairs of image sizes for checks: odd ones, and ones in steps of 32 for models that take nothing else."""
    odd = [(height * 9 // 8 | 1, width * 7 // 8 | 1), (height * 7 // 8 | 1, width * 5 // 4 | 1)]
    return odd, [(height + 32, width - 32 if width > 64 else width), (height, width + 64)]


def follow_sizes(module, meta, given):
    """Where the image's size is free, tokens lie on a grid that follows it: records how, as seen at other sizes.

    Layers whose number of tokens does not follow (a detector's queries) are none to draw, unless the user says they are.
    """
    import torch

    of_tokens = [layer for layer in meta["layers"] if layer["layout"] == "tokens"]
    if not of_tokens:
        return
    size, seen = tuple(meta["input"]["example"][2:]), []
    for pair in other_sizes(*size):
        with contextlib.suppress(Exception):  # it says which sizes it takes by raising; verify() tells the user
            seen = [(other, observe(module, torch.zeros(1, 3, *other))[0]) for other in pair]
            break
    if meta["tokens"]:
        # those of the embedding itself: a convolution without padding covers whole patches only
        counts = {other: next((shapes[la["path"]][1] for la in of_tokens if "tokens" not in la), None) for other, shapes in seen}
        meta["tokens"] = stride_of(meta["tokens"], size, [(other, count) for other, count in counts.items() if count]) or meta["tokens"]
    for layer in of_tokens:
        if "tokens" in layer:
            counts = [(other, (shapes.get(layer["path"]) or [0, 0])[1]) for other, shapes in seen]
            followed = stride_of(layer["tokens"], size, counts)
            if followed is None and layer["path"] not in given:
                meta["layers"].remove(layer)
            layer["tokens"] = followed or layer["tokens"]


def number_layers(layers):
    """({"1": path, ...}, [default number]): the stages of the network, as a person counts them.

    Transformers: the norm before each block's attention (the usual choice, because the attention and its shortcut meet
    there). ResNets: layer1 to layer4. Other networks: the last module at each resolution.
    """
    by_path = {layer["path"]: layer for layer in layers}

    def numbered(paths):
        aliases = {str(i + 1): path for i, path in enumerate(paths)}
        return aliases, [str(len(aliases))] if aliases else []

    def family(pattern, layout):
        """Paths whose end matches, in the shortest prefix that has at least two."""
        groups = {}
        for path, layer in by_path.items():
            found = re.fullmatch(rf"((?:.*\.)?)({pattern})", path)
            if found and (layer["layout"] == "tokens") == (layout == "tokens"):
                groups.setdefault(found[1], []).append(path)
        groups = [paths for paths in groups.values() if len(paths) > 1]
        return min(groups, key=lambda paths: len(paths[0])) if groups else []

    blocks = family(r"(?:blocks|layers?|encoder_layers)\.\w*?\d+\.(?:norm1|ln_1|layernorm_before|layer_norm1)", "tokens")
    if blocks and not any("tokens" in by_path[path] for path in blocks):  # pyramids of tokens have stages
        return numbered(blocks)
    stages = family(r"layer\d+", "spatial")
    if stages:
        return numbered(sorted(stages, key=lambda p: int(re.search(r"\d+$", p)[0])))
    children = family(r"(?:features|stages|trunk_output|layers|blocks)\.\w+", "spatial") or family(r"backbone\.\w+", "spatial") \
        or [p for p in by_path if "." not in p] or list(by_path)
    last = {}
    children = [p for p in children if by_path[p]["layout"] != "tokens"] or children
    # a pooling between stages belongs to none
    for path in [p for p in children if "Pool" not in (by_path[p]["type"] or "")] or children:
        shape = by_path[path]["shape"]
        last[tuple({"nchw": shape[2:], "nhwc": shape[1:3]}.get(by_path[path]["layout"], shape[1:2]))] = path
    for size, path in last.items():
        # windowed attention: as for the transformers above, the norm before the attention of the stage's last block
        norms = [p for p in by_path if re.fullmatch(re.escape(path) + r"(?:\.blocks)?\.\d+\.norm1", p) and by_path[p]["type"] == "LayerNorm"]
        last[size] = norms[-1] if norms else path
    return numbered(last.values())


def output_keys(output):
    """([key or None], [leaf]) of a model's output, flattened in the order of the archive's outputs."""
    import torch
    from torch.utils import _pytree

    if isinstance(output, torch.Tensor):
        return [None], [output]
    pairs, _ = _pytree.tree_flatten_with_path(output)
    return [".".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path) for path, _ in pairs], [leaf for _, leaf in pairs]


def overlay_layouts(layers, layouts, shapes):
    """Layers with what the command line says about their layout; such as it names are layers even if they did not look it."""
    layers = {layer["path"]: layer for layer in layers}
    for path, said in layouts.items():
        if not shapes.get(path):
            near = difflib.get_close_matches(path, [p for p, shape in shapes.items() if shape], n=4)
            raise ExportError(f"the model has no module `{path}` that returns one tensor",
                              f"the nearest are {', '.join(f'`{p}`' for p in near)}" if near else None, code=2)
        kept = {k: v for k, v in layers.get(path, {"path": path, "type": None, "shape": shapes[path]}).items() if k != "tokens"}
        layers[path] = {**kept, **said}
    return list(layers.values())


def describe(loaded, shapes, image, output, primary=None, layouts=None):
    """camflow.json but for what export and verification add."""
    import torch

    example = list(image.shape)
    given = loaded.metadata
    keys, leaves = output_keys(output)
    wanted = primary if primary is not None else given.get("primary_output")
    if wanted is None:
        index = next((keys.index(k) for k in ("out", "logits") if k in keys), 0)
    elif wanted in keys:
        index = keys.index(wanted)
    elif str(wanted).isdigit() and int(wanted) < len(keys):
        index = int(wanted)
    else:
        raise ExportError(f"the model has no output `{wanted}`", f"its outputs are {', '.join(f'`{k}`' for k in keys)}", code=2)
    scores = leaves[index]
    if not isinstance(scores, torch.Tensor) or scores.ndim < 2:
        raise ExportError(f"output `{keys[index]}` is not a tensor [N, classes, ...]", "choose another with `--primary-output`, or wrap the model")
    if not torch.isfinite(scores).all():
        raise ExportError("the model's output has infinities or NaN", "random weights? `--warm-batchnorm 4` gives its batch norms sane statistics")
    classes = given.get("classes") or {}
    if len(classes) != scores.shape[1] and classes:
        say(f"warning: {len(classes)} class names for {scores.shape[1]} channels of the output")
    layers, tokens = find_layers(loaded.module, shapes, example)
    found, tokens = {layer["path"]: layer for layer in layers}, given.get("tokens", tokens)
    if "layers" in given:  # paths, or entries that say more than was found, such as the layout
        wanted = [{"path": layer} if isinstance(layer, str) else layer for layer in given["layers"]]
        layers = [{**found.get(layer["path"], {"type": None, "shape": shapes.get(layer["path"])}), **layer} for layer in wanted]
        if any("layout" not in layer for layer in layers):
            raise ExportError(f"the layout of layers {[la['path'] for la in layers if 'layout' not in la]} is not plain from their shape",
                              "say it in `camflow_metadata`: {'path': ..., 'layout': 'nchw', 'nhwc' or 'tokens'}", code=2)
    layers = overlay_layouts(layers, layouts or {}, shapes)
    fed = feeding(loaded.module, image, lambda output: output_keys(output)[1][index])
    counted = [layer for layer in layers if fed is None or layer["path"] in fed]
    if layers and not counted:
        say("warning: the output has no gradient with respect to any layer: gradcam and its kin cannot explain it, eigencam and scorecam can")
    aliases, default = number_layers(counted or layers)
    if "aliases" in given:
        aliases = {str(k): v for k, v in given["aliases"].items()}
        default = list(aliases)[-1:]
    steps = given.get("preprocess")
    if not steps:
        say("warning: the model says nothing about preprocessing: images will be scaled to [0, 1] and to the example's size")
        steps = [_resize("resize", example[2:])]
    steps = steps if steps[-1]["op"] == "normalize" else [*steps, _normalize()]
    return {"camflow": FORMAT, "name": loaded.name, "source": loaded.source, "weights": given.get("weights"), "seed": given.get("seed"),
            "torch": torch.__version__.split("+")[0], "task": given.get("task") or {4: "segmentation", 2: "classification"}.get(scores.ndim, "other"),
            "input": {"layout": "NCHW", "dtype": "float32", "channels": 3, "example": list(example)}, "preprocess": steps,
            "outputs": keys, "primary_output": index, "classes": classes, "aliases": aliases,
            "default_layers": [str(k) for k in given.get("default_layers", default)], "layers": layers, "tokens": tokens}


# ----------------------------------------------------------------------------------------------------------- exporting


def trace(module, size, dynamic, static_reason=None):
    """Export at an example `size`; with `dynamic` try free height and width first, at `dynamic` as example size.

    Gives (program, example, "bhw" | "batch" | "none", shapes by path, paths without signature, output).
    """
    import torch

    free, reasons = torch.export.Dim.DYNAMIC, []
    if any("ShiftedWindowAttention" in type(m).__name__ for m in module.modules()):
        # it traces, but takes minutes and the graph holds for the one size only
        dynamic, static_reason = None, "windowed attention builds its mask for one size"
    if static_reason:
        say(f"height and width are fixed at {size[0]}x{size[1]}: {static_reason}")
    attempts = [("bhw", 2, dynamic, {0: free, 2: free, 3: free})] if dynamic else []
    # batch 2: a free dimension must not be 1 in the example
    attempts += [("batch", 2, size, {0: free}), ("none", 1, size, {})]
    for kind, batch, (height, width), dims in attempts:
        example = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        try:
            shapes, unfit, output = observe(module, example)
        except Exception as error:  # noqa: BLE001  a model may raise anything; the next attempt asks less of it
            reasons.append(f"{kind} at {height}x{width}: {first_line(error)}")
            continue
        bearers = [p for p in shapes if p and p not in unfit]
        try:
            program = torch.export.export(module, (example,), dynamic_shapes=(dims,), preserve_module_call_signature=tuple(bearers))
        except Exception as error:  # noqa: BLE001  a model may raise anything; the next attempt asks less of it
            reasons.append(f"{kind} at {height}x{width}: {first_line(error)}")
            continue
        if reasons:
            say(f"{'height and width are' if kind == 'batch' else 'all sizes are'} fixed, because a freer export failed:\n  " + "\n  ".join(reasons))
        return program, example, kind, shapes, unfit, output
    raise ExportError("the model cannot be exported:\n  " + "\n  ".join(reasons), "wrap or change the part of the model that the message names; `--size HxW` gives another example size")


def refuse_foreign(program):
    """Raise `ExportError` for what camflow cannot run: branches and loops on data, and operators that libtorch has not."""
    import torch

    known = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "_export_tracepoint")
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, torch.fx.GraphModule) else ():
            name = node.target.name() if isinstance(node.target, (torch._ops.HigherOrderOperator, torch._ops.OpOverload)) else ""
            if isinstance(node.target, torch._ops.HigherOrderOperator) and name not in known:
                raise ExportError(f"the model uses `{name}`: camflow runs no control flow that depends on data",
                                  "compute both branches and choose with `torch.where`, or export the part of the model before it")
            if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace not in ("aten", "prims"):
                raise ExportError(f"the model uses `{name}`, which is an operator of a library and not of PyTorch itself",
                                  "wrap the part of the model before it: `file.py:function`")


def strip_traces(program):
    """Drop the source paths of this machine from the graph; nothing else in the archive depends on them."""
    import torch

    for graph_module in program.graph_module.modules():
        if isinstance(graph_module, torch.fx.GraphModule):
            for node in graph_module.graph.nodes:
                node.meta.pop("stack_trace", None)


def signatures(program):
    """module path -> name of the value that its last call returned, for modules that return one tensor."""
    import torch

    names, recorded = {}, set()
    for entry in program.module_call_graph:
        outputs = entry.signature.outputs if entry.signature else []
        if entry.fqn and outputs:
            path = entry.fqn.partition("@")[0]
            recorded.add(path)
            names[path] = getattr(outputs[0], "name", None) if len(outputs) == 1 else None
    # Modules that take numbers have no signature. As camflow itself does: what a call computes and others use.
    calls = {}
    for node in program.graph.nodes:
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            calls.setdefault((path, key), set()).add(node)
    for (path, _), members in calls.items():
        if path and path not in recorded:
            outputs = [node.name for node in members if set(node.users) - members and isinstance(node.meta.get("val"), torch.Tensor)]
            names[path] = outputs[0] if len(outputs) == 1 else None
    return names


def verify(path, module, meta):
    """Reload the archive and compare it with the module; gives the "verified" entry, or raises `ExportError`."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given buffer is not writable")  # nothing here writes to weights
        program = torch.export.load(path)
    values, paths = signatures(program), [layer["path"] for layer in meta["layers"]]
    needed = {**{f"layer {k}": v for k, v in meta["aliases"].items()}, **{f"default layer `{k}`": meta["aliases"].get(k, k) for k in meta["default_layers"]}}
    for what, layer in needed.items():
        if layer not in paths or not values.get(layer):
            raise ExportError(f"{what} is `{layer}`, which is no layer of the archive", "fix `aliases` or `default_layers` in `camflow_metadata`")
    attention = any("scaled_dot_product" in str(n.target) or "softmax" in str(n.target) for n in program.graph.nodes)
    tolerance = 1e-4 if attention else 1e-5  # relative to the largest value; attention sums in another order per batch size
    graph = program.module(check_guards=False)  # the guards are about shapes that the tracer did not prove, not about results
    worst = {"absolute": 0.0, "relative": 0.0}

    def compare(what, ours, theirs):
        if ours.shape != theirs.shape:
            raise ExportError(f"verification failed: {what} is {list(ours.shape)} in the archive, {list(theirs.shape)} in the model")
        if not ours.numel() or not ours.is_floating_point():
            return
        gap, scale = (ours - theirs).abs().max().item(), theirs.abs().max().item()
        if not gap <= tolerance * max(scale, 1e-6):  # written so that NaN fails
            raise ExportError(f"verification failed: {what} differs by {gap:.2e} from the model (largest value {scale:.2e}, allowed {tolerance:.0e} of it)")
        worst.update(absolute=max(worst["absolute"], gap), relative=max(worst["relative"], gap / max(scale, 1e-6)))

    class Checked(torch.fx.Interpreter):
        """Runs the graph and compares values as they are made: later operators may overwrite them."""

        def run_node(self, node):
            value = super().run_node(node)
            for layer, tensor in self.expected.pop(node.name, ()):
                compare(f"layer `{layer}`", value, tensor)
            return value

    def check(shape, hooks=False):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
        runner, handles = Checked(graph), []
        runner.expected = {}
        if hooks:
            # the last call of a module wins, in the hook as in `signatures`
            taken = {}
            for layer in set(paths) & set(values):
                handles.append(module.get_submodule(layer).register_forward_hook(lambda m, i, o, layer=layer: taken.update({layer: o.clone()})))
        with torch.no_grad():
            try:
                theirs = output_keys(module(x.clone()))[1]  # some write to their input
            finally:
                for handle in handles:
                    handle.remove()
            if hooks:
                for layer, tensor in taken.items():
                    runner.expected.setdefault(values[layer], []).append((layer, tensor))
            count = sum(len(v) for v in runner.expected.values())
            ours = output_keys(runner.run(x.clone()))[1]
        for key, a, b in zip(meta["outputs"], ours, theirs, strict=True):
            if isinstance(b, torch.Tensor):
                compare(f"output {f'`{key}` ' if key else ''}at {'x'.join(map(str, shape))}", a, b)
        return count - sum(len(v) for v in runner.expected.values())

    kind, (batch, channels, height, width) = meta["input"]["dynamic"], meta["input"]["example"]
    shapes, hooks_checked = [], 0
    for n in (1, 3) if kind != "none" else (batch,):
        hooks_checked = max(hooks_checked, check([n, channels, height, width], hooks=n < 3))
        shapes.append([n, channels, height, width])
    if kind == "bhw":
        for sizes in other_sizes(height, width):
            try:
                with torch.no_grad():
                    module(torch.zeros(1, channels, *sizes[0]))
            except Exception as error:  # noqa: BLE001  the same: it says which sizes it takes by raising
                say(f"the model itself does not take {sizes[0][0]}x{sizes[0][1]}: {first_line(error)}")
                continue
            for size in sizes:
                check([1, channels, *size])
                shapes.append([1, channels, *size])
            break
    if len(shapes) == 2 and kind == "bhw":
        raise ExportError("verification failed: the model takes no image size but the example's", "export it with `--static-size`")
    return {"shapes": shapes, "max_abs_difference": worst["absolute"], "max_relative_difference": worst["relative"], "hooks_checked": hooks_checked}


def measured(camflow, path):
    """What the program `camflow` finds when it runs the archive: entries of camflow.json, or none where it fails."""
    began = time.monotonic()
    done = subprocess.run([camflow, "measure", path], check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        say(f"warning: `{camflow} measure` ended with {done.returncode}: the archive will not say how far the default mode is from float64")
        return {}
    found = json.loads(done.stdout)
    say(f"measured at {len(found['default_mode'])} inputs in {time.monotonic() - began:.0f} s")
    return found


def export(loaded, out, size=None, static_size=False, primary_output=None, warm=0, seed=0, layouts=None, measure_with=None):
    """Write `loaded` to `out` (a `.pt2` path), verified; gives the content of camflow.json. Replaces `out` only at the end.

    `measure_with` is the camflow program that measures how the archive behaves when it is run.
    """
    import torch

    out = Path(out)
    # attention's fused eager path differs in the last bits from the operators that the archive holds
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        given = loaded.metadata.get("example")
        size = size or (tuple(given[-2:]) if given else None)
        fixed = fixed_size(loaded.metadata.get("preprocess"))
        if warm:
            warm_batchnorm(loaded.module, warm, size or fixed or EXAMPLE_SIZE, seed)
        program, example, kind, shapes, unfit, output = trace(
            loaded.module, size or fixed or (224, 224), None if static_size else size or EXAMPLE_SIZE, "--static-size" if static_size else None)
        refuse_foreign(program)
        strip_traces(program)
        meta = describe(loaded, shapes, example, output, primary_output, layouts)
        meta["input"]["dynamic"] = kind
        if kind == "bhw":
            said = {layer if isinstance(layer, str) else layer["path"] for layer in loaded.metadata.get("layers", ())}
            follow_sizes(loaded.module, meta, said | set(layouts or ()))
        named = {path for path, value in signatures(program).items() if value}
        meta["layers"] = [layer for layer in meta["layers"] if layer["path"] in named]
        meta["modules_without_signature"] = unfit
        if not meta["layers"]:
            raise ExportError("the model has no module whose output can be drawn over the image", "describe its layers in `camflow_metadata`")
        out.parent.mkdir(parents=True, exist_ok=True)
        # a folder beside `out`: the same disk, so that the rename is atomic, and the archive's root gets the final name
        with tempfile.TemporaryDirectory(prefix=".camflow-export-", dir=out.parent) as folder:
            draft, final = Path(folder) / out.name, Path(folder) / "checked" / out.name
            final.parent.mkdir()
            torch.export.save(program, draft, extra_files={"camflow.json": json.dumps(meta)})
            meta["verified"] = verify(draft, loaded.module, meta)
            if measure_with:
                meta.update(measured(measure_with, draft))
            torch.export.save(program, final, extra_files={"camflow.json": json.dumps(meta)})
            if _checksums(draft) != _checksums(final):
                raise ExportError("two writes of the same model differ: the archive cannot be trusted", "please report this with the model's name")
            with open(final, "rb") as file:
                os.fsync(file.fileno())
            os.replace(final, out)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return meta


def _checksums(path):
    """What was verified: every entry but camflow.json (the second write adds the result to it)."""
    with zipfile.ZipFile(path) as archive:
        return {i.filename: i.CRC for i in archive.infolist() if not i.filename.endswith(("/extra/camflow.json", "serialization_id"))}


# -------------------------------------------------------------------------------------------------------- command line


def _size(text):
    found = re.fullmatch(r"(\d+)[xX](\d+)", text)
    if not found or not 0 < int(found[1]) < 1 << 15 or not 0 < int(found[2]) < 1 << 15:
        raise argparse.ArgumentTypeError(f"`{text}` is not a size: write height x width, such as 520x693")
    return int(found[1]), int(found[2])


def _layout(text):
    """`PATH=nchw`, `PATH=nhwc`, `PATH=tokens`, `PATH=tokens:14x14` or `PATH=tokens:14x14+1` as (path, layer entry)."""
    found = re.fullmatch(r"([\w.]+)=(?:(nchw|nhwc|tokens)|tokens:(\d+)x(\d+)(?:\+(\d+))?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"`{text}` is no layout: write PATH=nchw, PATH=nhwc or PATH=tokens:ROWSxCOLUMNS+PREFIX")
    path, layout, rows, columns, prefix = found.groups()
    if layout:
        return path, {"layout": layout}
    return path, {"layout": "tokens", "tokens": {"grid": [int(rows), int(columns)], "prefix": int(prefix or 0)}}


def parse(argv):
    parser = argparse.ArgumentParser(prog="export_model.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL", help="a model's name, or module:function, or file.py:function")
    parser.add_argument("--out", metavar="FILE", help="the archive to write (default: NAME.pt2 in this folder; a folder is fine)")
    parser.add_argument("--name", help="the model's name in the archive (default: its own)")
    parser.add_argument("--weights", default="default", metavar="default|none|PATH", help="published, random, or from a state dict")
    parser.add_argument("--seed", type=int, default=0, help="of random weights and of --warm-batchnorm's noise")
    parser.add_argument("--warm-batchnorm", type=int, default=0, metavar="N", help="N passes of noise to set batch norms' statistics")
    parser.add_argument("--size", type=_size, metavar="HxW", help="example image size (default: what the model is made for)")
    parser.add_argument("--static-size", action="store_true", help="do not let height and width vary")
    parser.add_argument("--layout", type=_layout, action="append", default=[], metavar="PATH=LAYOUT",
                        help="how a layer's output lies over the image, where the guess from its shape is wrong: "
                             "nchw, nhwc or tokens:ROWSxCOLUMNS+PREFIX; may be repeated")
    parser.add_argument("--primary-output", metavar="KEY", help="the output to explain, by key or number (default: out, logits, or the first)")
    parser.add_argument("--measure-with", metavar="CAMFLOW",
                        help="the program that measures how the archive behaves when it is run; `camflow export` gives itself")
    parser.add_argument("--force", action="store_true", help="replace the archive if it is there")
    parser.add_argument("--format", choices=("human", "json"), default="human", help="of the last line, on stdout")
    return parser.parse_args(argv)


def run(args, emit):
    """Do what the command line asks; `emit` gets the line for stdout."""
    if args.out and not args.out.endswith(".pt2") and not (args.out.endswith("/") or os.path.isdir(args.out)):
        raise ExportError(f"`{args.out}` does not end in `.pt2`", code=2)
    if args.warm_batchnorm < 0:
        raise ExportError("`--warm-batchnorm` takes a number of passes, 0 or more", code=2)

    def target(name):
        return Path(args.out) if args.out and args.out.endswith(".pt2") else Path(args.out or ".") / (re.sub(r"[^\w.@-]+", "_", name) + ".pt2")

    def refuse(path):
        if path.exists() and not args.force:
            raise ExportError(f"`{path}` is already there", "replace it with `--force`, or choose another with `--out`", code=2)

    guess = args.name or args.model.rpartition(":")[2]
    refuse(target(guess))  # before minutes of work
    loaded = load_model(args.model, args.weights, args.seed)
    loaded.name = args.name or loaded.name
    path = target(loaded.name)
    meta = export(loaded, path, args.size, args.static_size, args.primary_output, args.warm_batchnorm, args.seed, dict(args.layout),
                  args.measure_with)
    verified = meta["verified"]
    if args.format == "json":
        emit(json.dumps({"path": str(path), "name": meta["name"], "source": meta["source"], "task": meta["task"], "layers": len(meta["layers"]),
                         "default_layers": meta["default_layers"], "classes": len(meta["classes"]), "dynamic": meta["input"]["dynamic"],
                         "size_bytes": path.stat().st_size, "max_abs_difference": verified["max_abs_difference"], "hooks_checked": verified["hooks_checked"]}))
    else:
        aliases = ", ".join(f"{k} {v}" for k, v in list(meta["aliases"].items())[-4:])
        emit(f"{path}: {meta['name']}, {meta['task']}, {len(meta['layers'])} layers ({aliases}), sizes free: {meta['input']['dynamic']}; "
             f"checked at {len(verified['shapes'])} sizes and {verified['hooks_checked']} layers, largest difference {verified['max_abs_difference']:.1e}")


def main(argv=None):
    args = parse(argv)
    # Libraries print on import (FiftyOne its notices, hubs their progress), some below Python: move the descriptor itself
    sys.stdout.flush()
    result = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        run(args, lambda line: print(line, file=result, flush=True))
        return 0
    except ExportError as error:
        say(f"error: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
        return error.code
    except ImportError as error:
        say(f"error: a Python package is missing: {first_line(error)}\nhint: run this with the Python that has torch, torchvision and FiftyOne")
        return 1
    except KeyboardInterrupt:
        say("interrupted: nothing was written")
        return 130
    except Exception as error:
        say(f"error: exporting `{args.model}` failed: {type(error).__name__}: {first_line(error)}")
        if os.environ.get("CAMFLOW_TRACEBACK"):
            raise
        say("hint: CAMFLOW_TRACEBACK=1 shows where")
        return 1


if __name__ == "__main__":
    sys.exit(main())
