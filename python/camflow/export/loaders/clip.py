"""FiftyOne's CLIP models: OpenAI's network and those of open_clip."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import TextTower, scores, taken_out

if TYPE_CHECKING:
    from torch import Tensor, nn

# What embeds texts, and what an image does not need.
OF_TEXTS = ("transformer", "token_embedding", "positional_embedding", "ln_final", "text_projection", "text")


def towers(model: Any) -> tuple[nn.Module, TextTower]:
    """The image tower of a `TorchCLIPModel` or `TorchOpenClipModel`, whose output is the embedding [N, D], and the other one."""
    module, texts = _apart(model)
    scores.image_tower(module, _encode_image)
    return module, texts


def network(model: Any, texts: Sequence[str]) -> nn.Module:
    """The network of a `TorchCLIPModel` or `TorchOpenClipModel`, scoring `texts`: they are embedded once, and here.

    Raises:
        ExportError: a text is longer than the network reads.
    """
    module, tower = _apart(model)
    scores.similarities(module, _encode_image, tower.embed(texts), tower.scale, tower.bias)
    return module


def _encode_image(module: Any, images: Tensor) -> Tensor:
    embedded: Tensor = module.encode_image(images)
    return embedded


def _apart(model: Any) -> tuple[nn.Module, TextTower]:
    import torch

    module: Any = model._model.eval().float()  # it has no public name
    scale, bias = float(module.logit_scale.detach().exp()), getattr(module, "logit_bias", None)
    whole: Any = copy.copy(model)
    whole._model = taken_out(module, OF_TEXTS)
    is_open = type(model).__name__ == "TorchOpenClipModel"

    def embed(texts: Sequence[str]) -> Tensor:
        if is_open:
            scores.check_lengths(texts, *_lengths(whole._tokenizer))
        else:
            counts = [len(whole._tokenizer.encode(text)) + 2 for text in texts]  # the tokens of begin and end, too
            scores.check_lengths(texts, lambda given: counts, whole.config.context_length)
        with torch.no_grad():
            found: Tensor = (
                whole._model.encode_text(whole._tokenizer(list(texts))) if is_open else whole._embed_prompts(list(texts))
            )
        return found.float()

    prompt = f"{model.config.text_prompt} {{}}"
    return module, TextTower(embed, scale, float(bias or 0.0), "softmax" if bias is None else "sigmoid", prompt)


def _lengths(tokenizer: Any) -> tuple[Any, int | None]:
    """How a tokenizer of open_clip counts the tokens of texts, and how many there may be; None where it does not say."""
    limit = getattr(tokenizer, "context_length", None)
    if hasattr(tokenizer, "encode"):
        return (lambda texts: [len(tokenizer.encode(text)) + 2 for text in texts]), limit
    inner: Any = getattr(tokenizer, "tokenizer", None)
    return (lambda texts: [len(ids) for ids in inner(list(texts))["input_ids"]]), limit if inner is not None else None
