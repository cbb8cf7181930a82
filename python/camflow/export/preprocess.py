"""The steps of preprocessing: how they are made, checked, and what size of image they give."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

from .messages import ExportError, say

# A step as camflow.json has it: `op` and the keys that STEPS lists for it.
Step = dict[str, Any]

INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")
RESIZING = {"interpolation", "antialias"}
PADDING = {"fill", "centered"}
# The keys that a step has to have, and those that it may have.
STEPS = {
    "read": ({"samples"}, {"channels"}),
    "bgr": (set(), set()),
    "grayscale": ({"channels"}, set()),
    "resize": ({"height", "width"}, RESIZING),
    "resize_smaller": ({"size"}, RESIZING),
    "resize_min": (set(), {"size", "height", "width", *RESIZING}),
    "resize_max": (set(), {"size", "height", "width", *RESIZING}),
    "center_crop": ({"height", "width"}, {"rounds_down"}),
    "center_crop_multiple": ({"of"}, set()),
    "pad_multiple": ({"of"}, PADDING),
    "pad": ({"height", "width"}, PADDING),
    "letterbox": ({"height", "width"}, {"fill", "stride"}),
    "normalize": ({"mean", "std"}, {"divide_by"}),
}
OF_PIXELS = ("read", "bgr", "grayscale", "normalize")  # steps that leave the geometry as it is
# The range of samples in files that are read at full depth, and what they are divided by unless `divide_by` says otherwise.
SAMPLES = {"0-255": 255.0, "0-65535": 65535.0, "as-is": 1.0}
MAX_CHANNELS = 32


def _interpolation(mode: Any) -> str:
    value = str(getattr(mode, "value", mode)).lower()
    if value not in INTERPOLATIONS:
        raise ExportError(
            f"the model's preprocessing resizes with `{value}`, which camflow does not have",
            f"it has {', '.join(INTERPOLATIONS)}; give `preprocess` in `camflow_metadata` of a function of your own",
        )
    return value


def resize_step(op: str, size: Any, interpolation: Any = "bilinear", antialias: bool | None = True) -> Step:
    """A resize step. A pair is (height, width); a single number means what `op` makes of it."""
    how = {"interpolation": _interpolation(interpolation), "antialias": antialias is not False}
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    if len(sizes) == 1 or (op != "resize" and sizes[0] == sizes[1]):
        return {"op": "resize_smaller" if op == "resize" else op, "size": sizes[0], **how}
    return {"op": op, "height": sizes[0], "width": sizes[1], **how}


def crop_step(size: Any) -> Step:
    """A crop of the middle, of (height, width) or a square of one number of pixels."""
    sizes = [int(s) for s in size] if isinstance(size, (list, tuple)) else [int(size)]
    return {"op": "center_crop", "height": sizes[0], "width": sizes[-1]}


def normalize_step(mean: Iterable[float] | None = None, std: Iterable[float] | None = None) -> Step:
    """The last step, of samples in [0, 1]: by channel, what is subtracted, and what is then divided by."""
    # seven digits: timm keeps these as float32 tensors, whose 0.485 reads 0.48500001
    means, stds = ([float(f"{v:.7g}") for v in values] for values in (mean or (0, 0, 0), std or (1, 1, 1)))
    return {"op": "normalize", "mean": means, "std": stds}


def fixed_size(steps: Sequence[Step] | None) -> tuple[int, int] | None:
    """(height, width) that the steps always give, or None when it depends on the image."""
    size: tuple[int, int] | None = None
    for step in steps or ():
        if step["op"] in ("resize", "center_crop") or (step["op"] == "letterbox" and "stride" not in step):
            size = step["height"], step["width"]
        elif step["op"] == "pad":
            size = size and (max(size[0], step["height"]), max(size[1], step["width"]))
        elif step["op"] in ("center_crop_multiple", "pad_multiple"):
            up = step["of"] - 1 if step["op"] == "pad_multiple" else 0
            of = step["of"]
            size = size and ((size[0] + up) // of * of, (size[1] + up) // of * of)
        elif step["op"] not in OF_PIXELS:
            size = None
    return size


def with_normalization(steps: list[Step], own: Sequence[Step] | None) -> list[Step]:
    """Steps that end with a normalization: that of the model's `own` ones, where only its geometry is said anew.

    Raises:
        ExportError: nothing says how the model's images are normalised.
    """
    if steps and steps[-1]["op"] == "normalize":
        return steps
    read = [step for step in steps if step["op"] == "read"]
    # of samples as they are, the model's own normalization says nothing
    if not own or own[-1]["op"] != "normalize" or (read and read[0]["samples"] == "as-is"):
        raise unknown_preprocessing("nothing says how such images are normalised for the model")
    geometry = [
        step for step in (steps if any(step["op"] not in OF_PIXELS for step in steps) else own) if step["op"] not in OF_PIXELS
    ]
    of_pixels = [step for step in own[:-1] if step["op"] in OF_PIXELS and not (read and step["op"] == "read")]
    last = {key: value for key, value in own[-1].items() if not (read and key == "divide_by")}
    return [*read, *of_pixels, *geometry, last]


def unknown_preprocessing(what: str, channels: int | None = None) -> ExportError:
    """The error of a model that nobody said this of, with the ways to say it."""
    of_many = channels not in (None, 1, 3)
    return ExportError(
        f"{what}, and heatmaps of images that are prepared otherwise look right and are wrong",
        f"it takes {channels} channels: `--samples 0-255`, `0-65535` or `as-is` says what samples its images have, and `--mean` and "
        "`--std` how they are normalised"
        if of_many
        else "say it: `--preprocess imagenet`, `--preprocess none` (samples in [0, 1]), or `--mean`, `--std` and `--resize`",
    )


def with_padding(steps: list[Step], of: int) -> list[Step]:
    """Steps that pad images to a multiple of what the model wants, unless they give such sizes already."""
    size = fixed_size(steps)
    last = next((step for step in reversed(steps) if step["op"] not in OF_PIXELS), {})
    if last.get("op") == "letterbox":
        gives_multiples = all(last[key] % of == 0 for key in ("height", "width", "stride") if key in last)
    else:
        gives_multiples = (
            all(side % of == 0 for side in size) if size else last.get("op", "").endswith("_multiple") and last["of"] % of == 0
        )
    if of == 1 or gives_multiples:
        return steps
    say(
        f"the model takes images whose sides are multiples of {of}: others are padded, at the bottom and at the right (step `pad_multiple`)"
    )
    return [*steps[:-1], {"op": "pad_multiple", "of": of}, steps[-1]]


def scaled(steps: list[Step], usual: tuple[int, int], size: tuple[int, int]) -> list[Step]:
    """Steps that give images of `size` (height, width) in place of the `usual` one: sizes in them change by as much."""
    say(
        f"note: the model takes images of {size[0]}x{size[1]}, and not of the {usual[0]}x{usual[1]} that its preprocessing gives: "
        "they are resized and cropped to that, by as much less or more"
    )
    by = {"height": size[0] / usual[0], "width": size[1] / usual[1], "size": max(size) / max(usual)}
    return [{key: max(round(value * by[key]), 1) if key in by else value for key, value in step.items()} for step in steps]


def stretched(steps: list[Step], size: tuple[int, int]) -> list[Step]:
    """Steps for a model of the one `size` (height, width): images are stretched to it where the steps would keep their shape."""
    if fixed_size(steps):
        return steps
    if any(step["op"] == "letterbox" for step in steps):
        # padded all around, not up to the next multiple alone
        whole: Step = {"height": size[0], "width": size[1]}
        return [
            {**{key: value for key, value in step.items() if key != "stride"}, **whole} if step["op"] == "letterbox" else step
            for step in steps
        ]
    say(
        f"warning: the model takes images of {size[0]}x{size[1]} alone, which its preprocessing does not give: they are stretched to it\n"
        "`--size HxW` exports it for another size"
    )
    kept = [step for step in steps[:-1] if step["op"] in OF_PIXELS]
    how = next((step["interpolation"] for step in steps if "interpolation" in step), "bilinear")
    return [*kept, resize_step("resize", size, how), steps[-1]]


def checked_steps(steps: Any, channels: int | None = None, where: str = "preprocess") -> list[Step]:
    """The steps as camflow reads them: what its own reader would refuse is an `ExportError` that names step and key.

    With `channels` they are made for a model of so many: single numbers count for all, and gray begins with Pillow's `L`.

    Raises:
        ExportError: a step, a key or a value is wrong.
    """
    if not isinstance(steps, (list, tuple)):
        raise ExportError(f"{where} is a {type(steps).__name__}, not a list of steps", _example_of_steps(), code=2)
    checked: list[Step] = []
    cropped = False
    for number, step in enumerate(steps, 1):
        if not isinstance(step, dict) or step.get("op") not in STEPS:
            what = f"`{step['op']}`" if isinstance(step, dict) and "op" in step else "no `op`"
            raise ExportError(
                f"{where}: step {number} has {what}, which camflow does not have",
                f"it has {', '.join(f'`{s}`' for s in STEPS)}",
                code=2,
            )
        step = dict(step)
        op, at = step["op"], f"{where}: step {number} (`{step['op']}`)"
        needed, optional = STEPS[op]
        for keys, what in ((needed - set(step), "lacks"), (set(step) - needed - optional - {"op"}, "has the unknown key")):
            if keys:
                raise ExportError(
                    f"{at} {what} `{min(keys)}`", f"its keys are {', '.join(f'`{k}`' for k in sorted(needed | optional))}", code=2
                )
        for key in sorted(set(step) & {"size", "height", "width", "of", "channels", "stride"}):
            step[key] = _whole(step[key], f"{at}: `{key}`")
        if op in ("resize_min", "resize_max") and set(step) & {"size", "height", "width"} not in ({"size"}, {"height", "width"}):
            raise ExportError(f"{at} needs either `size` or both `height` and `width`", code=2)
        if step.get("interpolation", "bilinear") not in INTERPOLATIONS:
            raise ExportError(
                f"{at}: `interpolation` is {step['interpolation']!r}", f"it is one of {', '.join(INTERPOLATIONS)}", code=2
            )
        if not isinstance(step.get("antialias", True), bool):
            raise ExportError(f"{at}: `antialias` is {step['antialias']!r}, not true or false", code=2)
        if step.get("antialias") is False and step.get("interpolation", "bilinear") not in ("nearest", "bilinear"):
            raise ExportError(f"{at}: `antialias = false` is known for `nearest` and `bilinear` only", code=2)
        _check_values(step, at, checked)
        if op == "grayscale" and (step["channels"] not in (1, 3) or any(s["op"] == "grayscale" for s in checked)):
            raise ExportError(f"{at}: it is there once, and gives 1 channel or 3 equal ones", code=2)
        if cropped and (op.startswith("resize") or op == "letterbox"):
            raise ExportError(f"{at} resizes after a crop or padding", "put all resizing before it", code=2)
        cropped = cropped or op.startswith(("center_crop", "pad")) or op == "letterbox"
        if op == "normalize":
            if number != len(steps):
                raise ExportError(f"{at} is not the last step", "normalize once, as the last step", code=2)
            of = (1, MAX_CHANNELS) if checked and checked[0]["op"] == "read" else (1, 3)
            step["mean"], step["std"] = (_per_channel(step[key], channels, of, f"{at}: `{key}`") for key in ("mean", "std"))
            if min(step["std"]) <= 0:
                raise ExportError(f"{at}: `std` is {step['std']}, and has to be above 0", code=2)
        checked.append(step)
    return _of_channels(checked, channels, where) if channels else checked


def _check_values(step: Step, at: str, before: Sequence[Step]) -> None:
    """Raise `ExportError` for a value that its key cannot have; `before` are the steps before this one."""
    op = step["op"]
    if op == "read":
        if before:
            raise ExportError(f"{at} is not the first step", "read once, as the first step", code=2)
        if step["samples"] not in SAMPLES:
            raise ExportError(f"{at}: `samples` is {step['samples']!r}", f"it is one of {', '.join(SAMPLES)}", code=2)
        if step.get("channels", 1) > MAX_CHANNELS:
            raise ExportError(f"{at}: `channels` is {step['channels']}; {MAX_CHANNELS} are possible", code=2)
    if op == "bgr" and any(other["op"] == "bgr" for other in before):
        raise ExportError(f"{at} is there twice", code=2)
    for key in ("centered", "rounds_down"):
        if not isinstance(step.get(key, False), bool):
            raise ExportError(f"{at}: `{key}` is {step[key]!r}, not true or false", code=2)
    fill = step.get("fill", "mean")
    if fill != "mean" and (isinstance(fill, (bool, str)) or not isinstance(fill, (int, float)) or not math.isfinite(fill)):
        raise ExportError(f"{at}: `fill` is {fill!r}, not a sample such as 114, or `mean`", code=2)
    divide_by = step.get("divide_by", 1)
    if isinstance(divide_by, (bool, str)) or not isinstance(divide_by, (int, float)) or not 0 < divide_by < math.inf:
        raise ExportError(f"{at}: `divide_by` is {divide_by!r}, not a number above 0", code=2)


def _of_channels(steps: list[Step], channels: int, where: str) -> list[Step]:
    """Checked steps for a model of so many channels: one that reads files has as many, gray and colour are made of each other."""
    reads = bool(steps) and steps[0]["op"] == "read"
    gray = next((step["channels"] for step in steps if step["op"] == "grayscale"), None)
    if reads:
        read, *rest = steps
        if "channels" not in read:
            if gray:
                raise ExportError(f"{where}: step 1 (`read`) lacks `channels`, which `grayscale` is made of", code=2)
            read = {**read, "channels": channels}
        if rest and rest[-1]["op"] == "normalize":
            rest[-1] = {"divide_by": SAMPLES[read["samples"]], **rest[-1]}
        steps = [read, *rest]
    found = gray or (steps[0]["channels"] if reads else 3)
    if gray is None and {found, channels} == {1, 3}:
        return [*steps[:reads], {"op": "grayscale", "channels": channels}, *steps[reads:]]
    if found != channels:
        raise ExportError(
            f"{where} gives {found} channels, the model takes {channels}",
            None
            if reads
            else "`--samples 0-255`, `0-65535` or `as-is` says what samples its images have, and has them read at full depth",
            code=2,
        )
    if channels != 3 and any(step["op"] == "bgr" for step in steps):
        raise ExportError(f"{where}: `bgr` is for three channels, the model takes {channels}", code=2)
    return steps


def _example_of_steps() -> str:
    return "for example [{'op': 'resize_smaller', 'size': 256}, {'op': 'normalize', 'mean': [0.5, 0.5, 0.5], 'std': [0.5, 0.5, 0.5]}]"


def _whole(value: Any, what: str) -> int:
    try:
        number = operator.index(value) if not isinstance(value, bool) else 0
    except TypeError:
        number = 0
    if not 0 < number < 1 << 15:
        raise ExportError(f"{what} is {value!r}, not a whole number from 1 to {(1 << 15) - 1}", code=2)
    return number


def _per_channel(values: Any, channels: int | None, possible: tuple[int, int], what: str) -> list[float]:
    """One number for each channel, of 1 or as many as `possible` where it is not known; a single one counts for all."""
    try:
        numbers = [float(v) for v in (values if hasattr(values, "__iter__") else [values])]
    except (TypeError, ValueError):
        numbers = [math.nan]
    numbers = numbers * channels if channels and len(numbers) == 1 else numbers
    numbers = numbers[:1] if channels == 1 and len(set(numbers)) == 1 else numbers  # the same for all colours
    counts = {channels} if channels else set(possible) if possible == (1, 3) else set(range(1, possible[1] + 1))
    if len(numbers) not in counts or not all(map(math.isfinite, numbers)):
        wanted = (
            "1 finite number: the model takes gray images"
            if channels == 1
            else f"{channels or 3} finite numbers, one for each channel (or one for all)"
        )
        raise ExportError(f"{what} has to be {wanted}", code=2)
    return numbers
