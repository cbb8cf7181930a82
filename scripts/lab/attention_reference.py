"""The methods of attention in PyTorch, written from their papers, for one image at a time: what camflow's are judged by.

Attention is seen by standing in for `torch.nn.functional.scaled_dot_product_attention`, or for the softmax of attention that is written
out: the model is eager, and knows nothing of exported graphs.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field

from torch.nn import functional as F

import torch
from torch import Tensor, nn


@dataclass
class Seen:
    """What a forward pass of one image computed, call by call: [1, heads, ...] or [heads, ...]."""

    probabilities: list[Tensor] = field(default_factory=list)  # of L queries for T tokens
    queries: list[Tensor] = field(default_factory=list)  # L of E channels
    keys: list[Tensor] = field(default_factory=list)  # T
    values: list[Tensor] = field(default_factory=list)  # T
    outputs: list[Tensor] = field(default_factory=list)  # L


@contextlib.contextmanager
def watching():
    """Keeps what attention computes while it lasts, all of it with gradients."""
    seen = Seen()
    fused, softmax, matmul, bmm, baddbmm = F.scaled_dot_product_attention, F.softmax, torch.matmul, torch.bmm, torch.baddbmm

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        scores = matmul(query, key.transpose(-2, -1)) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        probabilities = softmax(scores if attn_mask is None else scores + attn_mask, dim=-1)
        output = matmul(probabilities, value)
        keep(query, key, value, probabilities, output)
        return output

    def keep(query, key, value, probabilities, output):
        for name, tensor in zip(seen.__dataclass_fields__, (probabilities, query, key, value, output), strict=True):
            getattr(seen, name).append(tensor)

    # Written out: a product of two tensors, something, a softmax, and a product that it is the first factor of.
    products: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    soft: list[Tensor] = []

    def product(by):
        def multiply(one, other, *args, **kwargs):
            result = by(one, other, *args, **kwargs)
            for at, probabilities in enumerate(soft):
                if one is probabilities or (one.shape == probabilities.shape and one.data_ptr() == probabilities.data_ptr()):
                    query, transposed = products[tuple(probabilities.shape)]
                    keep(query, transposed.transpose(-2, -1), other, one, result)
                    del soft[at]
                    return result
            products[tuple(result.shape)] = (one, other)
            return result

        return multiply

    def smooth(scores, *args, **kwargs):
        probabilities = softmax(scores, *args, **kwargs)
        if probabilities.ndim > 2:
            soft.append(probabilities)
        return probabilities

    def added(bias, one, other, **_):
        products[(*one.shape[:-1], other.shape[-1])] = (one, other)
        return bias + bmm(one, other)

    try:
        F.scaled_dot_product_attention, F.softmax = attend, smooth
        torch.matmul, torch.bmm, torch.baddbmm = product(matmul), product(bmm), added
        yield seen
    finally:
        F.scaled_dot_product_attention, F.softmax = fused, softmax
        torch.matmul, torch.bmm, torch.baddbmm = matmul, bmm, baddbmm


def heads(tensor: Tensor) -> Tensor:
    """Of one image: [heads, ...], of which written-out attention has no other form."""
    return tensor.detach().reshape(-1, *tensor.shape[-2:])


@dataclass
class Tower:
    """A model, and what of it the methods have to know."""

    module: nn.Module
    blocks: str  # where its list of blocks is
    prefix: int  # tokens before the patches
    grid: tuple[int, int]
    read: list[int] | None  # which tokens the output reads; None: what a query gathers

    def patches(self, tokens: Tensor) -> Tensor:
        return tokens[..., self.prefix :].reshape(self.grid)


def score_of(tower: Tower, pixels: Tensor, channel: int):
    with watching() as seen:
        output = tower.module(pixels)
    return output[0, channel], seen


def relation(blocks: list[Tensor], mix, tower: Tower, query: Tensor | None) -> Tensor:
    """The rows of what is read, of the product of all blocks [T, T], which is built up from the first one on."""
    built = torch.eye(blocks[0].shape[-1], dtype=blocks[0].dtype)
    for block in blocks:
        built = mix(block, built)
    if query is not None:
        return (query @ built)[0]
    return built[tower.read].mean(0)


def split(tower: Tower, tensors: list[Tensor], count: int):
    """([that many blocks], the query's attention or None)."""
    return tensors[:count], tensors[-1] if tower.read is None else None


def attention_rollout(tower: Tower, pixels: Tensor, channel: int, count: int) -> Tensor:
    _, seen = score_of(tower, pixels, channel)
    blocks, query = split(tower, [heads(attention).mean(0) for attention in seen.probabilities], count)

    def mix(attention, built):
        mixed = attention + torch.eye(len(attention), dtype=attention.dtype)
        return mixed / mixed.sum(-1, keepdim=True) @ built

    return tower.patches(relation(blocks, mix, tower, query))


def weighted(tower: Tower, pixels: Tensor, channel: int) -> list[Tensor]:
    """Of each attention the mean over heads of (dy/dA * A)^+."""
    score, seen = score_of(tower, pixels, channel)
    gradients = torch.autograd.grad(score, seen.probabilities, materialize_grads=True)
    pairs = zip(seen.probabilities, gradients, strict=True)
    return [heads(gradient * attention).clamp(min=0).mean(0) for attention, gradient in pairs]


def chefer(tower: Tower, pixels: Tensor, channel: int, count: int) -> Tensor:
    blocks, query = split(tower, weighted(tower, pixels, channel), count)
    return tower.patches(relation(blocks, lambda attention, built: built + attention @ built, tower, query))


def grad_attention(tower: Tower, pixels: Tensor, channel: int, count: int) -> Tensor:
    blocks, query = split(tower, weighted(tower, pixels, channel), count)
    return tower.patches(query[0] if query is not None else blocks[-1][tower.read].mean(0))


def legrad(tower: Tower, pixels: Tensor, channel: int, count: int) -> Tensor:
    """Each block's tokens are put in the place of the last block's, by a hook, and the model is run again."""
    handed_on: list[Tensor] = []
    layers = list(tower.module.get_submodule(tower.blocks).children())
    first = lambda output: output[0] if isinstance(output, tuple) else output  # noqa: E731
    hooks = [layer.register_forward_hook(lambda _m, _i, output: handed_on.append(first(output))) for layer in layers]
    _, seen = score_of(tower, pixels, channel)
    for hook in hooks:
        hook.remove()
    total = 0
    for block in range(count):
        tokens = handed_on[block]
        if tower.read is not None and max(tower.read) < tower.prefix:
            tokens = tokens.mean(1, keepdim=True).expand_as(tokens)

        def instead(_module, _inputs, output, tokens=tokens):
            return (tokens, *output[1:]) if isinstance(output, tuple) else tokens

        hook = layers[-1].register_forward_hook(instead)
        score, again = score_of(tower, pixels, channel)
        hook.remove()
        attention = again.probabilities[-1] if tower.read is None else seen.probabilities[block]
        (gradient,) = torch.autograd.grad(score, [attention], retain_graph=True)
        total = total + heads(gradient).clamp(min=0).mean(0).mean(0)
    return tower.patches(total)


def grad_eclip(tower: Tower, pixels: Tensor, channel: int, count: int) -> Tensor:
    score, seen = score_of(tower, pixels, channel)
    at = -1 if tower.read is None else count - 1
    (gradient,) = torch.autograd.grad(score, [seen.outputs[at]])

    def side_by_side(tensor: Tensor) -> Tensor:  # [tokens, heads * E]
        return heads(tensor).transpose(0, 1).flatten(1)

    query, key, value = (side_by_side(seen.__dict__[name][at]) for name in ("queries", "keys", "values"))
    weights = side_by_side(gradient)
    total = 0
    for token in [0] if tower.read is None else tower.read:
        alike = F.cosine_similarity(query[token][None], key[tower.prefix :], dim=-1)
        alike = (alike - alike.min()) / (alike.max() - alike.min())
        total = total + alike * (weights[token] * value[tower.prefix :]).sum(-1)
    return total.clamp(min=0).reshape(tower.grid)


METHODS = {
    "attention-rollout": attention_rollout,
    "grad-attention": grad_attention,
    "chefer": chefer,
    "legrad": legrad,
    "grad-eclip": grad_eclip,
}


def heatmap(saliency: Tensor):
    """Clipped, and scaled to [0, 1], as all of camflow's heatmaps of a layer's size are."""
    saliency = saliency.detach().clamp(min=0)
    saliency = saliency - saliency.min()
    saliency = saliency / (saliency.max() + 1e-7)
    saliency = saliency - saliency.min()
    return (saliency / (saliency.max() + 1e-7)).numpy()
