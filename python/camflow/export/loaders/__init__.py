"""Loaders, one module for each kind of source: `torchvision`, `timm`, FiftyOne's zoo, files of `torch.export.save`, functions."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# What is known about a model, by METADATA_KEYS of `loading` and keys of the exporter's own.
Metadata = dict[str, Any]


@dataclasses.dataclass
class LoadedModel:
    """A model on the CPU in eval mode, its name, where it comes from, and what is known about it (METADATA_KEYS)."""

    module: nn.Module
    name: str
    source: str
    metadata: Metadata


def without_weights(build: Callable[..., Any], **kwargs: Any) -> Any:
    """Calls a torchvision-like builder so that it downloads nothing (segmentation models fetch a backbone otherwise)."""
    accepted = inspect.signature(build).parameters
    for key in ("weights", "weights_backbone"):
        if key in accepted:
            kwargs[key] = None
    return build(**kwargs)


def of_classes(count: int | None) -> dict[str, int]:
    """The argument of builders for a head of so many classes; none for the usual head."""
    return {"num_classes": count} if count else {}
