"""Preprocessing steps, read from what torchvision, timm and FiftyOne say of their models."""

import importlib

from export_messages import ExportError

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
STEPS = {"resize", "resize_smaller", "resize_min", "resize_max", "center_crop", "center_crop_multiple", "normalize"}


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
        elif step["op"] != "normalize":
            size = None
    return size
