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
    if kind == "CenterCrop" and hasattr(transform, "size"):  # Ultralytics has one of its own, which resizes what it cropped
        return [crop_step(transform.size)]
    if kind in ("LetterBox", "ClassifyLetterBox"):
        return [_letterbox_step(transform)]
    if kind == "Grayscale":
        return [{"op": "grayscale", "channels": int(transform.num_output_channels)}]
    if kind == "Normalize":
        flat = [v.flatten().tolist() if hasattr(v, "flatten") else list(v) for v in (transform.mean, transform.std)]
        return [normalize_step(*flat)]
    if kind == "MaybeConvertMode" and transform.mode == "RGB":  # open_clip's, from 3.0 on
        return []
    if kind in (
        "_convert_to_rgb",  # open_clip's before
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


def _letterbox_step(transform: Any) -> Step:
    """Of a transform of Ultralytics.

    Raises:
        ExportError: it does what camflow does not have.
    """
    sides = getattr(transform, "new_shape", None) or (transform.h, transform.w)
    height, width = (sides, sides) if isinstance(sides, int) else sides
    for key, usual in (("scale_fill", False), ("scaleFill", False), ("scaleup", True), ("center", True)):
        if getattr(transform, key, usual) is not usual:
            raise ExportError(
                f"the model's `{type(transform).__name__}` has `{key}={getattr(transform, key)}`, which camflow does not have",
                "give `preprocess` in `camflow_metadata` of a function of your own: `file.py:function`",
            )
    stride = {"stride": int(transform.stride)} if getattr(transform, "auto", False) else {}
    fill = getattr(transform, "padding_value", 114)
    return {"op": "letterbox", "height": int(height), "width": int(width), "fill": fill, **stride}


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

    unknown_steps = [key for key in ("do_align_corners", "do_split_image") if config.get(key)]
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
                steps.append({"op": "center_crop", "height": side, "width": side, "rounds_down": True})
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
        steps.append({"op": "center_crop", "height": pair[0], "width": pair[1], "rounds_down": True})
    steps += _padding_of_processor(config)
    if config.get("do_flip_channel_order"):
        steps.append({"op": "bgr"})
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


def _padding_of_processor(config: dict[str, Any]) -> list[Step]:
    """What a processor of Hugging Face pads one image with."""
    kind, divisor, of_files = str(config.get("image_processor_type")), config.get("size_divisor"), config.get("pad_size")
    size = config.get("size")
    if kind.startswith("DPT"):  # around the image, and after it was normalised
        around = {"fill": "mean", "centered": True}
        return [{"op": "pad_multiple", "of": int(divisor), **around}] if divisor and config.get("do_pad") else []
    if kind.startswith("Eomt") and config.get("do_pad") and isinstance(size, dict):
        side = size["shortest_edge"]
        return [{"op": "pad", "height": side, "width": size.get("longest_edge") or side}]
    if divisor:
        return [{"op": "pad_multiple", "of": int(divisor)}]
    if config.get("do_pad") and isinstance(of_files, dict):
        return [{"op": "pad", "height": of_files["height"], "width": of_files["width"], "fill": "mean"}]
    return []  # without a size, images are padded to the largest of their batch


def steps_from_flags(
    preprocess: str | None,
    mean: list[float] | None,
    std: list[float] | None,
    resize: list[int] | None,
    *,
    letterbox: list[int] | None = None,
    pad_multiple: int | None = None,
    samples: str | None = None,
    channels: int | None = None,
    bgr: bool = False,
    rescale: bool = True,
) -> list[Step] | None:
    """The steps that the options of these names say, or None where none of them is given.

    `imagenet` is torchvision's for classifiers: the smaller side to 256, the middle 224, ImageNet's mean and deviation. Without
    anything about normalisation the steps are those of the geometry alone. `rescale` divides samples by their largest.

    Raises:
        ExportError: a file cannot be read, or says all and is not alone; options contradict each other.
    """
    if preprocess in (None, "imagenet", "none"):
        if channels and not samples:
            raise ExportError(
                "`--channels` is of images that are read at full depth", "add `--samples 0-255`, `0-65535` or `as-is`", code=2
            )
        if resize and letterbox:
            raise ExportError("`--resize` and `--letterbox` both say the size of images", "leave one of them out", code=2)
        if preprocess == "imagenet" and (samples == "as-is" or not rescale):
            raise ExportError("`--preprocess imagenet` is of samples in [0, 1]", "say `--mean` and `--std` in its place", code=2)
        steps = [resize_step("resize", resize)] if resize else []
        if letterbox:
            steps = [{"op": "letterbox", "height": letterbox[0], "width": letterbox[-1]}]
        if preprocess == "imagenet":
            steps = steps or [resize_step("resize", 256), crop_step(224)]
            mean, std = mean or IMAGENET["mean"][:: -1 if bgr else 1], std or IMAGENET["std"][:: -1 if bgr else 1]
        if pad_multiple:
            steps.append({"op": "pad_multiple", "of": pad_multiple})
        read = [{"op": "read", "samples": samples, **({"channels": channels} if channels else {})}] if samples else []
        if not (preprocess or mean or std) and rescale:
            if bgr:
                raise ExportError(
                    "`--bgr` says nothing of the normalization", "add `--mean` and `--std`, or `--preprocess`", code=2
                )
            return [*read, *steps] or None
        if mean and max(mean) > 1 and rescale and samples != "as-is":
            raise ExportError(
                f"`--mean` is {max(mean):g}, and samples are in [0, 1]",
                "divide mean and standard deviation by 255; for a model that takes samples from 0 to 255 say `-- --no-rescale`, too",
                code=2,
            )
        last: Step = {"op": "normalize", "mean": mean or [0.0], "std": std or [1.0], **({} if rescale else {"divide_by": 1})}
        return [*read, *steps, *([{"op": "bgr"}] if bgr else []), last]
    try:
        config = json.loads(Path(preprocess).read_text())
    except (OSError, ValueError) as error:
        raise ExportError(
            f"`--preprocess`: `{preprocess}` cannot be read: {error}",
            "it takes `imagenet`, `none` or a JSON file: a list of steps, or Hugging Face's `preprocessor_config.json`",
            code=2,
        ) from None
    if mean or std or resize or letterbox or pad_multiple or samples or channels or bgr or not rescale:
        raise ExportError("`--preprocess FILE` says all, and goes without other options of preprocessing", code=2)
    return steps_from_processor(config) if isinstance(config, dict) else config
