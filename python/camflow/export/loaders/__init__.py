"""Loaders, one module for each kind of source: `torchvision`, `timm`, FiftyOne's zoo, files of `torch.export.save`, functions."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

# What is known about a model, by METADATA_KEYS of `loading` and keys of the exporter's own.
Metadata = dict[str, Any]


@dataclasses.dataclass
class TextTower:
    """What embeds texts for an image tower, on the CPU, and how the two embeddings become a score.

    `embed` gives the embeddings float32 [K, D] of texts, and raises `ExportError` for one that is longer than the tower reads.
    A score is `scale` times the cosine, plus `bias`. `scores` says how scores become probabilities: "sigmoid", of each text by
    itself, or "softmax", of all texts together. `prompt` makes a text of a class ("{}" stands for it) where nobody says another.
    """

    embed: Callable[[Sequence[str]], Tensor]
    scale: float
    bias: float
    scores: str
    prompt: str


@dataclasses.dataclass
class LoadedModel:
    """A model on the CPU in eval mode, its name, where it comes from, and what is known about it (METADATA_KEYS).

    Of the image tower of a CLIP-like model, `texts` is the other one.
    """

    module: nn.Module
    name: str
    source: str
    metadata: Metadata
    texts: TextTower | None = None


def taken_out(module: nn.Module, parts: Iterable[str]) -> nn.Module:
    """The module as it is, while `parts` are taken out of `module` itself; both share all weights."""
    whole = copy.copy(module)
    for kind in ("_modules", "_parameters", "_buffers"):
        vars(whole)[kind] = dict(vars(module)[kind])
    for part in parts:
        if hasattr(module, part):
            delattr(module, part)
    return whole


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
