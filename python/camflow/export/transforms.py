"""Preprocessing steps, read from what torchvision, timm, FiftyOne, Hugging Face and the command line say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from .messages import ExportError
from .preprocess import INTERPOLATIONS, Step, crop_step, normalize_step, resize_step

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def attribute(dotted: str) -> Any:
    """What the dotted name stands for, imported."""
    module, _, name = dotted.rpartition(".")
    return getattr(importlib.import_module(module), name)


def steps_from_zoo_config(config: dict[str, Any]) -> list[Step]:
    """Preprocess steps of a FiftyOne zoo entry, from its config dict: the order of `TorchImageModel._build_transforms`.

    Raises:
        ExportError: it does what camflow does not have.
    """
    get = config.get
    build: Any = get("transforms_fcn")
    if get("transforms") is not None:
        return steps_from_transforms(get("transforms"))
    if build is not None:
        return steps_from_transforms((attribute(build) if isinstance(build, str) else build)(**(get("transforms_args") or {})))
    if get("raw_inputs"):
        raise ExportError(
            "this zoo model takes a list of raw images, not one tensor",
            "wrap it in a function that returns a module from [N, 3, H, W] to one tensor: `file.py:function`",
        )
    steps: list[Step] = []
    if get("image_size"):
        # FiftyOne hands the pair to torchvision as it is, which reads it as (height, width)
        steps.append(resize_step("resize", get("image_size")))
    elif get("image_dim"):
        steps.append(resize_step("resize", get("image_dim")))
    elif patch := get("image_patch_size"):
        if get("image_min_dim"):
            steps.append(resize_step("resize_min", get("image_min_dim")))
        steps.append({"op": "center_crop_multiple", "of": int(patch)})
    else:
        for op, size in (
            ("resize_min", get("image_min_size") or get("image_min_dim")),
            ("resize_max", get("image_max_size") or get("image_max_dim")),
        ):
            if size:
                steps.append(resize_step(op, size))
    return [*steps, normalize_step(get("image_mean"), get("image_std"))]


def steps_from_transforms(transform: Any) -> list[Step]:
    """Preprocess steps from transform objects of torchvision, timm or FiftyOne, recognised by their class.

    Raises:
        ExportError: one of them does what camflow does not have.
    """
    kind = type(transform).__name__
    if kind == "function":
        kind = transform.__name__
    if kind == "Compose":
        steps = [step for part in transform.transforms for step in steps_from_transforms(part)]
        last = [s for s in steps if s["op"] == "normalize"] or [normalize_step()]
        if len(last) > 1 or (last[0] in steps and steps[-1] is not last[0]):
            raise ExportError(
                "the model's preprocessing does not end with its one normalization", "give `preprocess` in `camflow_metadata`"
            )
        return [s for s in steps if s["op"] != "normalize"] + last
    if kind in ("ImageClassification", "SemanticSegmentation"):  # the presets that torchvision's weights carry
        how = transform.interpolation, transform.antialias
        steps = [resize_step("resize", transform.resize_size, *how)] if transform.resize_size else []
        crop = [crop_step(transform.crop_size)] if kind == "ImageClassification" else []
        return [*steps, *crop, normalize_step(transform.mean, transform.std)]
    if kind == "Resize" and getattr(transform, "max_size", None) is None:
        return [resize_step("resize", transform.size, transform.interpolation, getattr(transform, "antialias", True))]
    if kind in ("MinResize", "MaxResize"):
        size = transform.min_output_size if kind == "MinResize" else transform.max_output_size
        return [resize_step("resize_min" if kind == "MinResize" else "resize_max", size, transform.interpolation or "bilinear")]
    if kind == "PatchSize":
        return [{"op": "center_crop_multiple", "of": int(transform.patch_size)}]
    if kind == "CenterCrop":
        return [crop_step(transform.size)]
    if kind == "Grayscale":
        return [{"op": "grayscale", "channels": int(transform.num_output_channels)}]
    if kind == "Normalize":
        flat = [v.flatten().tolist() if hasattr(v, "flatten") else list(v) for v in (transform.mean, transform.std)]
        return [normalize_step(*flat)]
    if kind in (
        "_convert_to_rgb",  # open_clip's
        "ToTensor",
        "MaybeToTensor",
        "PILToTensor",
        "MaybePILToTensor",
        "ToPILImage",
        "ConvertImageDtype",
        "ToImage",
        "ToDtype",
    ):
        return []  # conversions to [0, 1]: what a decoded image is already
    raise ExportError(
        f"the model's preprocessing uses `{kind}`, which camflow does not have",
        "give `preprocess` in `camflow_metadata` of a function of your own: `file.py:function`",
    )


def steps_from_processor(config: dict[str, Any]) -> list[Step]:
    """Preprocess steps of the `preprocessor_config.json` of a Hugging Face image processor.

    Raises:
        ExportError: it does what camflow does not have.
    """
    steps: list[Step] = []
    resample = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

    def how(key: str = "resample") -> Step:
        filter_ = config.get(key, 2)
        if filter_ not in resample:
            raise ExportError(
                f"its `resample` is {filter_!r}, which camflow does not have", f"it has {', '.join(INTERPOLATIONS)}"
            )
        return {"interpolation": resample[filter_], "antialias": True}

    def sides(key: str) -> tuple[int, int] | None:
        size = config.get(key)
        if isinstance(size, dict) and set(size) == {"height", "width"}:
            return size["height"], size["width"]
        return (size, size) if isinstance(size, int) else None

    unknown_steps = [key for key in ("do_pad", "do_align_corners", "do_flip_channel_order", "do_split_image") if config.get(key)]
    divisor = config.get("size_divisor")
    if unknown_steps == ["do_pad"] and divisor:
        unknown_steps = []  # the padding of older files, to the multiple below
    if unknown_steps or (config.get("keep_aspect_ratio") and config.get("do_resize")):
        raise ExportError(f"it has the step `{(unknown_steps or ['keep_aspect_ratio'])[0]}`, which camflow does not have")
    if config.get("do_resize", False):
        size = config.get("size")
        if isinstance(size, int) and (
            config.get("do_center_crop") or "crop_pct" in config
        ):  # so it is meant in files without names of sides
            size = {"shortest_edge": size}
        named = {key: value for key, value in size.items() if value} if isinstance(size, dict) else {}
        if set(named) == {"shortest_edge"} and config.get("crop_pct"):  # ConvNeXt's own: the crop is for small images only
            side = named["shortest_edge"]
            if side < 384:
                steps.append({"op": "resize_smaller", "size": int(side / config["crop_pct"]), **how()})
                steps.append({"op": "center_crop", "height": side, "width": side})
            else:
                steps.append({"op": "resize", "height": side, "width": side, **how()})
        elif set(named) == {"shortest_edge"}:
            steps.append({"op": "resize_smaller", "size": named["shortest_edge"], **how()})
        elif set(named) == {"shortest_edge", "longest_edge"}:
            steps.append({"op": "resize_smaller", "size": named["shortest_edge"], **how()})
            steps.append({"op": "resize_max", "size": named["longest_edge"], **how()})
        elif pair := sides("size"):
            steps.append({"op": "resize", "height": pair[0], "width": pair[1], **how()})
        else:
            raise ExportError(f"its `size` is {size!r}, which camflow cannot read")
    if config.get("do_center_crop", False):
        if not (pair := sides("crop_size")):
            raise ExportError(f"its `crop_size` is {config.get('crop_size')!r}, which camflow cannot read")
        steps.append({"op": "center_crop", "height": pair[0], "width": pair[1]})
    if divisor:
        steps.append({"op": "pad_multiple", "of": int(divisor)})
    factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1
    scale = factor * 255  # camflow normalises samples in [0, 1]
    offset = 1 if config.get("rescale_offset") else 0
    mean: Any = config.get("image_mean") if config.get("do_normalize", False) else [0] * 3
    std: Any = config.get("image_std") if config.get("do_normalize", False) else [1] * 3
    # EfficientNet's divides by the deviation once more
    again: Any = config.get("image_std") if config.get("include_top") else [1] * 3
    return [
        *steps,
        normalize_step(
            [(m + offset) / scale for m in mean], [s * once_more / scale for s, once_more in zip(std, again, strict=True)]
        ),
    ]


def steps_from_flags(
    preprocess: str | None, mean: list[float] | None, std: list[float] | None, resize: list[int] | None
) -> list[Step] | None:
    """The steps that `--preprocess`, `--mean`, `--std` and `--resize` say, or None where none of them is given.

    `imagenet` is torchvision's for classifiers: the smaller side to 256, the middle 224, ImageNet's mean and deviation.

    Raises:
        ExportError: a file cannot be read, or says all and is not alone.
    """
    if preprocess in (None, "imagenet", "none"):
        if preprocess is None and not (mean or std or resize):
            return None
        steps = [resize_step("resize", resize)] if resize else []
        if preprocess == "imagenet":
            steps = steps or [resize_step("resize", 256), crop_step(224)]
            mean, std = mean or IMAGENET["mean"], std or IMAGENET["std"]
        return [*steps, {"op": "normalize", "mean": mean or [0.0], "std": std or [1.0]}]
    try:
        config = json.loads(Path(preprocess).read_text())
    except (OSError, ValueError) as error:
        raise ExportError(
            f"`--preprocess`: `{preprocess}` cannot be read: {error}",
            "it takes `imagenet`, `none` or a JSON file: a list of steps, or Hugging Face's `preprocessor_config.json`",
            code=2,
        ) from None
    if mean or std or resize:
        raise ExportError("`--preprocess FILE` says all, and goes without `--mean`, `--std` and `--resize`", code=2)
    return steps_from_processor(config) if isinstance(config, dict) else config
