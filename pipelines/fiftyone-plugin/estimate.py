"""What a form comes to: how many heatmaps at most, and what they took where the same model made some before."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import eta.core.utils as etau

from ._camflow.names import shown

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

    from ._camflow.archive import Model


# Methods that make one map of all layers: FullGrad takes all of a model together, RefineCAM those that are named, the others look at the
# image.
WHOLE = frozenset(
    {"fullgrad", "refinecam", "saliency", "smoothgrad", "integrated-gradients", "guided-backprop", "occlusion", "rise"},
)


@dataclass(frozen=True)
class Pace:
    """What heatmaps took in an earlier run."""

    run: str
    bytes_each: float
    # None where that run had other methods, which take another time.
    seconds_an_image: float | None


def sentence(ctx: ExecutionContext, model: Model, methods: list[str], num_images: int, num_classes: int) -> str:
    """The estimate in words."""
    num_columns = _num_columns(ctx.params, model, methods)
    if num_classes == 0 or num_columns == 0:
        return f"{_counted(num_columns, 'heatmap')} an image for each class"
    num_heatmaps = num_images * num_classes * num_columns
    text = f"At most {_counted(num_heatmaps, 'heatmap')}"
    pace = _pace(ctx, model, methods)
    if pace is None:
        return f"{text}; how long that takes is said once some are made"
    size = etau.to_human_bytes_str(pace.bytes_each * num_heatmaps, decimals=0)
    time = ""
    if pace.seconds_an_image is not None:
        time = f" and {etau.to_human_time_str(max(1, round(pace.seconds_an_image * num_images)), decimals=0)}"
    return f"{text}, about {size} of files{time}, as in the run {shown(pace.run)}"


def _num_columns(params: dict[str, Any], model: Model, methods: list[str]) -> int:
    """Fields for each class: methods by layers, with one for those that take all layers together."""
    if not methods and not params.get("layers"):
        return 1
    methods = methods or ["layercam"]
    if params.get("fuse_layers"):
        return len(methods)
    num_layers = sum(map(_num_layers, params.get("layers") or model.default_layers))
    num_whole = sum(method in WHOLE for method in methods)
    return (len(methods) - num_whole) * num_layers + num_whole


def _num_layers(entry: str) -> int:
    """How many layers an entry of the form names: `4`, `1-4` or a module path."""
    span = re.fullmatch(r"(\d+)-(\d+)", entry)
    return abs(int(span[2]) - int(span[1])) + 1 if span else 1


def _pace(ctx: ExecutionContext, model: Model, methods: list[str]) -> Pace | None:
    """What the newest run of this model in the dataset took, if possible one with these methods; None where none says it."""
    found = []
    for key in ctx.dataset.list_runs(method="camflow"):
        info = ctx.dataset.get_run_info(key)
        pace = _pace_of(key, info.config.serialize(), model, methods)
        if pace:
            found.append((info.timestamp, pace))
    return max(found, key=lambda pair: (pair[1].seconds_an_image is not None, pair[0]))[1] if found else None


def _pace_of(key: str, config: dict[str, Any], model: Model, methods: list[str]) -> Pace | None:
    counts = config.get("counts") or {}
    num_committed, num_heatmaps = counts.get("num_committed"), counts.get("num_heatmaps")
    if config.get("model") != model.name or not num_committed or not num_heatmaps or not counts.get("num_bytes"):
        return None
    seconds = (_when(config["ended"]) - _when(config["started"])).total_seconds()
    return Pace(key, counts["num_bytes"] / num_heatmaps, seconds / num_committed if config.get("methods") == methods else None)


def _when(text: str) -> datetime:
    # Of nanoseconds, Python reads the first six digits.
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*", r"\1", text).replace("Z", "+00:00"))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
