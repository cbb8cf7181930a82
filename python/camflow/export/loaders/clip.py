"""FiftyOne's CLIP models: OpenAI's network and those of open_clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import scores

if TYPE_CHECKING:
    from torch import nn

# What embeds texts, and what an image does not need.
OF_TEXTS = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "text")


def network(model: Any, texts: Sequence[str]) -> nn.Module:
    """The network of a `TorchCLIPModel` or `TorchOpenClipModel`, scoring `texts`: they are embedded once, and here."""
    import torch

    module: Any = model._model.eval().float()  # it has no public name
    with torch.no_grad():
        is_open = type(model).__name__ == "TorchOpenClipModel"
        embedded = module.encode_text(model._tokenizer(list(texts))) if is_open else model._embed_prompts(list(texts))
    scale, bias = module.logit_scale.detach().exp(), getattr(module, "logit_bias", None)
    for part in OF_TEXTS:
        if hasattr(module, part):
            delattr(module, part)
    scores.similarities(module, lambda self, images: self.encode_image(images), embedded, scale, bias)
    found: nn.Module = module
    return found
