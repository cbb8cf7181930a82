"""Preprocessing steps, read from what torchvision, timm and FiftyOne say of their models."""

import importlib
import json
import math
import operator
from pathlib import Path

from export_messages import ExportError, say

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
RESIZING = {"interpolation", "antialias"}
# The keys that a step has to have, and those that it may have.
STEPS = {
    "grayscale": ({"channels"}, set()),
    "resize": ({"height", "width"}, RESIZING),
    "resize_smaller": ({"size"}, RESIZING),
    "resize_min": (set(), {"size", "height", "width", *RESIZING}),
    "resize_max": (set(), {"size", "height", "width", *RESIZING}),
    "center_crop": ({"height", "width"}, set()),
    "center_crop_multiple": ({"of"}, set()),
    "pad_multiple": ({"of"}, set()),
    "normalize": ({"mean", "std"}, set()),
}
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def attribute(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _interpolation(mode):
    value = str(getattr(mode, "value", mode)).lower()
    if value not in INTERPOLATIONS:
        raise ExportError(f"the model's preprocessing resizes with `{value}`, which camflow does not have",
                          f"it has {', '.join(INTERPOLATIONS)}; give `preprocess` in `camflow_metadata` of a function of your own")
    return value


def resize_step(op, size, interpolation="bilinear", antialias=True):
    """A resize step. A pair is (height, width); a single number means what `op` makes of it."""
    how = {"interpolation": _interpolation(interpolation), "antialias": antialias is not False}
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    if len(sizes) == 1 or (op != "resize" and sizes[0] == sizes[1]):
        return {"op": "resize_smaller" if op == "resize" else op, "size": sizes[0], **how}
    return {"op": op, "height": sizes[0], "width": sizes[1], **how}


def _crop(size):
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    return {"op": "center_crop", "height": sizes[0], "width": sizes[-1]}


def normalize_step(mean=None, std=None):
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
        return steps_from_transforms((attribute(build) if isinstance(build, str) else build)(**(get("transforms_args") or {})))
    if get("raw_inputs"):
        raise ExportError("this zoo model takes a list of raw images, not one tensor",
                          "wrap it in a function that returns a module from [N, 3, H, W] to one tensor: `file.py:function`")
    steps = []
    if get("image_size"):
        # FiftyOne hands the pair to torchvision as it is, which reads it as (height, width)
        steps.append(resize_step("resize", get("image_size")))
    elif get("image_dim"):
        steps.append(resize_step("resize", get("image_dim")))
    elif get("image_patch_size"):
        if get("image_min_dim"):
            steps.append(resize_step("resize_min", get("image_min_dim")))
        steps.append({"op": "center_crop_multiple", "of": int(get("image_patch_size"))})
    else:
        for op, size in (("resize_min", get("image_min_size") or get("image_min_dim")), ("resize_max", get("image_max_size") or get("image_max_dim"))):
            if size:
                steps.append(resize_step(op, size))
    return [*steps, normalize_step(get("image_mean"), get("image_std"))]


def steps_from_transforms(transform):
    """Preprocess steps from transform objects of torchvision, timm or FiftyOne, recognised by their class."""
    kind = type(transform).__name__
    if kind == "Compose":
        steps = [step for part in transform.transforms for step in steps_from_transforms(part)]
        last = [s for s in steps if s["op"] == "normalize"] or [normalize_step()]
        if len(last) > 1 or (last[0] in steps and steps[-1] is not last[0]):
            raise ExportError("the model's preprocessing does not end with its one normalization", "give `preprocess` in `camflow_metadata`")
        return [s for s in steps if s["op"] != "normalize"] + last
    if kind in ("ImageClassification", "SemanticSegmentation"):  # the presets that torchvision's weights carry
        how = transform.interpolation, transform.antialias
        steps = [resize_step("resize", transform.resize_size, *how)] if transform.resize_size else []
        crop = [_crop(transform.crop_size)] if kind == "ImageClassification" else []
        return [*steps, *crop, normalize_step(transform.mean, transform.std)]
    if kind == "Resize" and getattr(transform, "max_size", None) is None:
        return [resize_step("resize", transform.size, transform.interpolation, getattr(transform, "antialias", True))]
    if kind in ("MinResize", "MaxResize"):
        size = transform.min_output_size if kind == "MinResize" else transform.max_output_size
        return [resize_step("resize_min" if kind == "MinResize" else "resize_max", size, transform.interpolation or "bilinear")]
    if kind == "PatchSize":
        return [{"op": "center_crop_multiple", "of": int(transform.patch_size)}]
    if kind == "CenterCrop":
        return [_crop(transform.size)]
    if kind == "Grayscale":
        return [{"op": "grayscale", "channels": int(transform.num_output_channels)}]
    if kind == "Normalize":
        flat = [v.flatten().tolist() if hasattr(v, "flatten") else list(v) for v in (transform.mean, transform.std)]
        return [normalize_step(*flat)]
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
        elif step["op"] in ("center_crop_multiple", "pad_multiple"):
            up = step["of"] - 1 if step["op"] == "pad_multiple" else 0
            size = size and tuple((side + up) // step["of"] * step["of"] for side in size)
        elif step["op"] not in ("normalize", "grayscale"):
            size = None
    return size


def with_padding(steps, of):
    """Steps that pad images to a multiple of what the model wants, unless they give such sizes already."""
    size = fixed_size(steps)
    last = next((step for step in reversed(steps) if step["op"] not in ("normalize", "grayscale")), {})
    gives_multiples = all(side % of == 0 for side in size) if size else last.get("op", "").endswith("_multiple") and last["of"] % of == 0
    if of == 1 or gives_multiples:
        return steps
    say(f"the model takes images whose sides are multiples of {of}: others are padded, at the bottom and at the right (step `pad_multiple`)")
    return [*steps[:-1], {"op": "pad_multiple", "of": of}, steps[-1]]


def checked_steps(steps, channels=None, where="preprocess"):
    """The steps as camflow reads them: what its own reader would refuse is an `ExportError` that names step and key.

    With `channels` they are made for a model of so many: single numbers count for all, and gray begins with Pillow's `L`.
    """
    if not isinstance(steps, (list, tuple)):
        raise ExportError(f"{where} is a {type(steps).__name__}, not a list of steps", _example_of_steps(), code=2)
    checked, cropped = [], False
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict) or step.get("op") not in STEPS:
            what = f"`{step['op']}`" if isinstance(step, dict) and "op" in step else "no `op`"
            raise ExportError(f"{where}: step {number} has {what}, which camflow does not have", f"it has {', '.join(f'`{s}`' for s in STEPS)}", code=2)
        step = dict(step)
        op, at = step["op"], f"{where}: step {number} (`{step['op']}`)"
        needed, optional = STEPS[op]
        for keys, what in ((needed - set(step), "lacks"), (set(step) - needed - optional - {"op"}, "has the unknown key")):
            if keys:
                raise ExportError(f"{at} {what} `{min(keys)}`",
                                  f"its keys are {', '.join(f'`{k}`' for k in sorted(needed | optional))}", code=2)
        for key in sorted(set(step) & {"size", "height", "width", "of", "channels"}):
            step[key] = _whole(step[key], f"{at}: `{key}`")
        if op in ("resize_min", "resize_max") and set(step) & {"size", "height", "width"} not in ({"size"}, {"height", "width"}):
            raise ExportError(f"{at} needs either `size` or both `height` and `width`", code=2)
        if step.get("interpolation", "bilinear") not in INTERPOLATIONS:
            raise ExportError(f"{at}: `interpolation` is {step['interpolation']!r}", f"it is one of {', '.join(INTERPOLATIONS)}", code=2)
        if not isinstance(step.get("antialias", True), bool):
            raise ExportError(f"{at}: `antialias` is {step['antialias']!r}, not true or false", code=2)
        if step.get("antialias") is False and step.get("interpolation", "bilinear") not in ("nearest", "bilinear"):
            raise ExportError(f"{at}: `antialias = false` is known for `nearest` and `bilinear` only", code=2)
        if op == "grayscale" and (step["channels"] not in (1, 3) or any(s["op"] == "grayscale" for s in checked)):
            raise ExportError(f"{at}: it is there once, and gives 1 channel or 3 equal ones", code=2)
        if cropped and op.startswith("resize"):
            raise ExportError(f"{at} resizes after a crop", "put all resizing before the crop", code=2)
        cropped = cropped or op.startswith("center_crop")
        if op == "normalize":
            if number != len(steps):
                raise ExportError(f"{at} is not the last step", "normalize once, as the last step", code=2)
            step["mean"], step["std"] = (_per_channel(step[key], channels, f"{at}: `{key}`") for key in ("mean", "std"))
            if min(step["std"]) <= 0:
                raise ExportError(f"{at}: `std` is {step['std']}, and has to be above 0", code=2)
        checked.append(step)
    given = next((step["channels"] for step in checked if step["op"] == "grayscale"), None)
    if channels == 1 and given is None:
        return [{"op": "grayscale", "channels": 1}, *checked]
    if channels and channels != (given or 3):
        raise ExportError(f"{where} gives {given or 3} channels, the model takes {channels}", code=2)
    return checked


def _example_of_steps():
    return "for example [{'op': 'resize_smaller', 'size': 256}, {'op': 'normalize', 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}]"


def _whole(value, what):
    try:
        number = operator.index(value) if not isinstance(value, bool) else 0
    except TypeError:
        number = 0
    if not 0 < number < 1 << 15:
        raise ExportError(f"{what} is {value!r}, not a whole number from 1 to {(1 << 15) - 1}", code=2)
    return number


def _per_channel(values, channels, what):
    """One number for each channel, of 1 or 3 where it is not known; a single one counts for all, as in torchvision."""
    try:
        values = [float(v) for v in (values if hasattr(values, "__iter__") else [values])]
    except (TypeError, ValueError):
        values = [math.nan]
    values = values * channels if channels and len(values) == 1 else values
    values = values[:1] if channels == 1 and len(set(values)) == 1 else values  # the same for all colours
    if len(values) not in ({channels} if channels else {1, 3}) or not all(map(math.isfinite, values)):
        wanted = "1 finite number: the model takes gray images" if channels == 1 else "3 finite numbers, one for each channel (or one for all)"
        raise ExportError(f"{what} has to be {wanted}", code=2)
    return values


def steps_from_processor(config):
    """Preprocess steps of the `preprocessor_config.json` of a Hugging Face image processor."""
    steps = []
    resample = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

    def how(key="resample"):
        filter_ = config.get(key, 2)
        if filter_ not in resample:
            raise ExportError(f"its `resample` is {filter_!r}, which camflow does not have", f"it has {', '.join(INTERPOLATIONS)}")
        return {"interpolation": resample[filter_], "antialias": True}

    def sides(key):
        size = config.get(key)
        if isinstance(size, dict) and set(size) == {"height", "width"}:
            return size["height"], size["width"]
        return (size, size) if isinstance(size, int) else None

    unknown_steps = [key for key in ("do_pad", "do_align_corners", "do_flip_channel_order") if config.get(key)]
    if unknown_steps or config.get("do_resize", False) and "crop_pct" in config:
        raise ExportError(f"it has the step `{(unknown_steps or ['crop_pct'])[0]}`, which camflow does not have")
    if config.get("do_resize", False):
        size = config.get("size")
        if isinstance(size, int) and config.get("do_center_crop"):  # so it is meant in files without names of sides
            size = {"shortest_edge": size}
        if isinstance(size, dict) and set(size) == {"shortest_edge"}:
            steps.append({"op": "resize_smaller", "size": size["shortest_edge"], **how()})
        elif sides("size"):
            steps.append({"op": "resize", "height": sides("size")[0], "width": sides("size")[1], **how()})
        else:
            raise ExportError(f"its `size` is {size!r}, which camflow cannot read")
    if config.get("do_center_crop", False):
        if not sides("crop_size"):
            raise ExportError(f"its `crop_size` is {config.get('crop_size')!r}, which camflow cannot read")
        steps.append({"op": "center_crop", "height": sides("crop_size")[0], "width": sides("crop_size")[1]})
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    scale = factor * 255  # camflow normalises samples in [0, 1]
    mean, std = (config.get("image_mean"), config.get("image_std")) if config.get("do_normalize", False) else ([0] * 3, [1] * 3)
    return [*steps, normalize_step([m / scale for m in mean], [s / scale for s in std])]


def steps_from_flags(preprocess, mean, std, resize):
    """The steps that `--preprocess`, `--mean`, `--std` and `--resize` say, or None where none of them is given.

    `imagenet` is torchvision's for classifiers: the smaller side to 256, the middle 224, ImageNet's mean and deviation.
    """
    if preprocess in (None, "imagenet", "none"):
        if preprocess is None and not (mean or std or resize):
            return None
        steps = [resize_step("resize", resize)] if resize else []
        if preprocess == "imagenet":
            steps = steps or [resize_step("resize", 256), _crop(224)]
            mean, std = mean or IMAGENET["mean"], std or IMAGENET["std"]
        return [*steps, {"op": "normalize", "mean": mean or [0.0], "std": std or [1.0]}]
    try:
        config = json.loads(Path(preprocess).read_text())
    except (OSError, ValueError) as error:
        raise ExportError(f"`--preprocess`: `{preprocess}` cannot be read: {error}",
                          "it takes `imagenet`, `none` or a JSON file: a list of steps, or Hugging Face's `preprocessor_config.json`", code=2) from None
    if mean or std or resize:
        raise ExportError("`--preprocess FILE` says all, and goes without `--mean`, `--std` and `--resize`", code=2)
    return steps_from_processor(config) if isinstance(config, dict) else config
