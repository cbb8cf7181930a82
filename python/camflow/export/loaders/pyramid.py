"""What torchvision's detectors of one and of two stages have in common: maps of several sizes, anchors, boxes."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

SIZE = (256, 256)  # of the image that tells which maps there are, and how many pixels their cells have


def features_of(module: Any, images: Tensor) -> dict[str, Tensor]:
    """What the backbone gives, by name."""
    import torch

    found = module.backbone(images)
    return {"0": found} if isinstance(found, torch.Tensor) else dict(found)


def anchors_of(generator: Any, images: Tensor, features: list[Tensor]) -> Tensor:
    """The anchors [Q, 4] of an image, as corners in pixels."""
    from torchvision.models.detection.image_list import ImageList

    size = images.shape[-2:]
    anchors: Tensor = generator(ImageList(images, [(size[0], size[1])]), features)[0]
    return anchors


def fractions(boxes: Tensor, images: Tensor) -> Tensor:
    """Corners in pixels [..., 4] as fractions of the images' sides."""
    import torch

    height, width = images.shape[-2:]
    return boxes / torch.tensor([width, height, width, height], dtype=boxes.dtype)


def levels_of(module: Any, names: Collection[str] | None = None) -> list[str]:
    """The modules of the backbone that give what the head is given, a map for each size of objects; with `names`, of these maps alone.

    SSD300 scales its first map once more, of which the map before is taken. A map of one cell lies nowhere.
    """
    import torch

    ended: dict[str, Tensor] = {}
    handles: list[Any] = []
    for path, part in module.backbone.named_modules(prefix="backbone"):

        def note(_part: nn.Module, _inputs: Any, output: Any, path: str = path) -> None:
            if isinstance(output, torch.Tensor):
                ended.pop(path, None)
                ended[path] = output

        handles.append(part.register_forward_hook(note))
    size = module.transform.fixed_size
    try:
        with torch.no_grad():
            found = features_of(module, torch.zeros(1, 3, *(size[::-1] if size else SIZE)))
    finally:
        for handle in handles:
            handle.remove()
    levels = []
    for wanted in [one for name, one in found.items() if names is None or name in names]:
        by_itself = [path for path, output in ended.items() if output is wanted]
        alike = [path for path, output in ended.items() if output.shape == wanted.shape]
        if min(wanted.shape[-2:]) > 1 and (paths := by_itself or alike):
            levels.append(paths[-1])
    return list(dict.fromkeys(levels))
