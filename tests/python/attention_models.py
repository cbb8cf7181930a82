"""Small vision transformers with random weights, one of each family whose attention camflow explains, and some of which it does not;
functions for the exporter.

Weights are larger than those that training starts from, so that attention is not nearly the same everywhere.
"""

import timm
import timm.models.beit
import timm.models.eva
import timm.models.swin_transformer
import timm.models.vision_transformer
import torchvision
import transformers as t

import torch
from torch import nn

NAMES = ["ant", "bee", "cat", "dog", "eel"]
SIZE = [64, 80]
SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 4, "num_classes": len(NAMES), "img_size": SIZE, "patch_size": 16}
FACE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": SIZE,
    "patch_size": 16,
    "num_labels": len(NAMES),
}


def made(build, **options):
    """A model in which every matrix has entries of a size that keeps activations about as large as they come in."""
    torch.manual_seed(0)
    model = build(**options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(std=2.0 * fan_in**-0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return described(model)


def described(model, size=None):
    preprocess = [
        {"op": "resize", "height": (size or SIZE)[0], "width": (size or SIZE)[1], "interpolation": "bilinear", "antialias": True},
        {"op": "normalize", "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    ]
    known = {"task": "classification", "classes": NAMES, "preprocess": preprocess, "example": size or SIZE}
    model.camflow_metadata = known
    return model


def vit():
    """Fused attention and a class token."""
    return made(timm.models.vision_transformer.VisionTransformer, **SMALL)


def vit_mean():
    """No class token: the mean over all patches."""
    return made(timm.models.vision_transformer.VisionTransformer, class_token=False, global_pool="avg", fc_norm=True, **SMALL)


def siglip():
    """No class token: one query looks at all patches."""
    options = {**SMALL, "class_token": False, "global_pool": "map"}
    return made(timm.models.vision_transformer.VisionTransformer, **options)


def deit():
    """A class token and a distilled one, each with a head of its own."""
    return made(timm.models.deit.VisionTransformerDistilled, **SMALL)


def beit():
    """A bias for relative positions in each block, and the mean over patches beside a class token."""
    options = {**SMALL, "use_rel_pos_bias": True, "use_abs_pos_emb": False, "init_values": 0.5}
    return made(timm.models.beit.Beit, **options)


def eva():
    """DINOv3's: rotated queries and keys, with registers."""
    options = {**SMALL, "num_reg_tokens": 4, "use_rot_pos_emb": True, "use_abs_pos_emb": False, "init_values": 0.5}
    return made(timm.models.eva.Eva, global_pool="token", **options)


def torchvision_vit():
    """`torch.nn.MultiheadAttention`."""
    options = {"image_size": 64, "patch_size": 16, "num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 64}
    return described(made(torchvision.models.VisionTransformer, num_classes=len(NAMES), **options), [64, 64])


class Logits(nn.Module):
    """The logits alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x).logits


def of_transformers(config, kind, attention="eager", **options):
    settings = config(**{**FACE, **options}, attn_implementation=attention)
    return made(lambda: Logits(kind(settings)))


def vit_eager():
    """Attention written out."""
    return of_transformers(t.ViTConfig, t.ViTForImageClassification)


def dinov2_registers():
    """Class token and the mean over patches, side by side."""
    options = {"image_size": 64, "num_register_tokens": 4}
    model = of_transformers(t.Dinov2WithRegistersConfig, t.Dinov2WithRegistersForImageClassification, "sdpa", **options)
    return described(model, [64, 64])


def swin():
    """Attention in windows, of which there are several."""
    options = {"img_size": 64, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
    model = made(timm.models.swin_transformer.SwinTransformer, num_classes=len(NAMES), **options)
    return described(model, [64, 64])
