"""From what a model of Hugging Face, FiftyOne or Ultralytics returns to one tensor of class scores.

The forward of the model's class is overridden, so that the paths of its modules stay what its users know.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..messages import ExportError

if TYPE_CHECKING:
    from torch import Tensor, nn


def override_forward(module: nn.Module, forward: Callable[[Any, Callable[..., Any], Tensor], Tensor]) -> None:
    """Has the module compute `forward(module, its own forward, images)`."""
    kind = type(module)

    def scores(self: nn.Module, pixel_values: Tensor) -> Tensor:
        return forward(self, lambda **inputs: kind.forward(self, **inputs), pixel_values)

    module.__class__ = type(kind.__name__, (kind,), {"forward": scores, "__module__": kind.__module__})


def without_checks(module: nn.Module) -> None:
    """Leaves out `torch_compilable_check` of transformers in the module's own file.

    It compares lists of sizes that are the same for every image, by values out of tensors, which archives cannot hold.
    """
    namespace = vars(sys.modules[type(module).__module__])
    if "torch_compilable_check" in namespace:
        namespace["torch_compilable_check"] = lambda *args, **kwargs: None


def without_choices(module: nn.Module) -> None:
    """Has EoMT read as numbers whether its blocks mask their attention: it decides by a value out of a tensor."""
    if "attn_mask_probs" in module._buffers:
        shares = module._buffers.pop("attn_mask_probs")
        vars(module)["attn_mask_probs"] = shares.tolist() if shares is not None else []


def logits(module: nn.Module) -> None:
    """Scores are `.logits`: [N, K] of classifiers, [N, K, h, w] of semantic segmentation."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> Tensor:
        found: Any = own(pixel_values=images)
        scores: Tensor = found.logits if hasattr(found, "logits") else found.last_hidden_state  # as PP-LCNet calls them
        return scores

    override_forward(module, forward)


def embeddings(module: nn.Module) -> None:
    """The output [N, D] is `.pooler_output`, or the mean of the last hidden states over tokens or places, as FiftyOne takes them."""

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> Tensor:
        found: Any = own(pixel_values=images)
        pooled: Tensor | None = getattr(found, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        states: Tensor = found.last_hidden_state
        return states.mean(1) if states.ndim == 3 else states.mean((2, 3))

    override_forward(module, forward)


def class_maps(module: nn.Module, resized: bool, **constants: Tensor) -> None:
    """Scores [N, K, h, w] are the class queries' probabilities times the masks', as `post_process_semantic_segmentation` has it.

    With `resized` the masks get the image's size before they become probabilities. `constants` are further inputs.
    """
    import torch

    for name, value in constants.items():
        module.register_buffer(f"camflow_{name}", value, persistent=False)

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> Tensor:
        given = {name: getattr(self, f"camflow_{name}").expand(images.shape[0], -1) for name in constants}
        found = own(pixel_values=images, **given)
        masks = found.masks_queries_logits
        if resized:
            masks = torch.nn.functional.interpolate(masks, size=images.shape[-2:], mode="bilinear", align_corners=False)
        classes = found.class_queries_logits.softmax(dim=-1)[..., :-1]  # the last is "no object"
        return torch.einsum("nqk,nqhw->nkhw", classes, masks.sigmoid())

    override_forward(module, forward)


def image_tower(module: nn.Module, encode: Callable[[Any, Tensor], Tensor]) -> None:
    """The output [N, D] of a CLIP-like model is what `encode` gives of images: their embedding, beside which texts are laid later."""
    override_forward(module, lambda self, own, images: encode(self, images))


def check_lengths(texts: Sequence[str], count: Callable[[Sequence[str]], Sequence[int]], limit: int | None) -> None:
    """Raise `ExportError` for a text of which `count` gives more tokens than `limit`: the rest of it would go unread."""
    if limit is None:
        return
    for text, tokens in zip(texts, count(texts), strict=True):
        if tokens > limit:
            raise ExportError(
                f"the text `{text}` has {tokens} tokens, and the model reads {limit}", "say it in fewer words", code=2
            )


def similarities(
    module: nn.Module, encode: Callable[[Any, Tensor], Tensor], texts: Tensor, scale: float, bias: float = 0.0
) -> None:
    """Scores [N, K] of CLIP-like models: the cosine of the image's embedding and each class's text, scaled.

    `encode` gives the embedding [N, D] of images; `texts` [K, D] are those of the classes, `scale` is the factor itself.
    """
    unit = texts / texts.norm(dim=-1, keepdim=True)
    module.register_buffer("camflow_texts", (unit * scale).detach().t().contiguous(), persistent=False)

    def forward(self: Any, own: Callable[..., Any], images: Tensor) -> Tensor:
        found = encode(self, images)
        scores: Tensor = (found / found.norm(dim=-1, keepdim=True)) @ self.camflow_texts
        return scores + bias

    override_forward(module, forward)
