"""Models that `scripts/export_model.py` takes as `tests/python/wrapped_models.py:NAME`: random weights, small sizes.

The first two are models of Hugging Face transformers, which return objects with many members. A subclass that returns the
tensors that matter keeps the module paths of the library (`segformer.encoder...`), unlike a module around it.
"""

import torch


def randomise_zeros(module):
    """Gives parameters that are zero throughout (heads, biases) values: nothing is to be trivially equal. The module."""
    for parameter in module.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.05)
    return module


def segformer():
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    class Logits(SegformerForSemanticSegmentation):
        def forward(self, pixel_values):
            return super().forward(pixel_values).logits

    config = SegformerConfig(
        depths=[1, 2, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        num_attention_heads=[1, 2, 3, 4],
        decoder_hidden_size=32,
        num_labels=7,
    )
    model = randomise_zeros(Logits(config))
    model.camflow_metadata = {
        "task": "segmentation",
        "classes": [f"class {k}" for k in range(7)],
        "example": [96, 128],
        "preprocess": [
            {"op": "resize_smaller", "size": 128, "interpolation": "bilinear", "antialias": True},
            {"op": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ],
    }
    return model


def detr():
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    class Boxes(DetrForObjectDetection):
        def forward(self, pixel_values):
            output = super().forward(pixel_values)
            return {"logits": output.logits, "pred_boxes": output.pred_boxes}

    backbone = ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 32, 48, 64], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=9,
        num_labels=5,
    )
    model = randomise_zeros(Boxes(config))
    model.camflow_metadata = {
        "task": "detection",
        "example": [128, 160],
        "preprocess": [
            {"op": "resize_smaller", "size": 128, "interpolation": "bilinear", "antialias": True},
            {"op": "normalize", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
        ],
    }
    return model


def vit_b_16():
    """torchvision's, at a smaller size (fewer tokens), and with a head that is not zero."""
    import torchvision

    model = randomise_zeros(torchvision.models.vit_b_16(weights=None, image_size=96))
    plain = [{"op": "normalize", "mean": 0, "std": 1}]
    model.camflow_metadata = {"task": "classification", "example": [96, 96], "preprocess": plain}
    return model


def _timm(name, size, **options):
    import timm

    model = randomise_zeros(timm.create_model(name, img_size=size, **options))
    model.camflow_metadata = {"task": "classification", "example": [size, size]}
    return model


def timm_resnet50():
    """timm sets the last batch norm of each block to zero, so that the blocks would do nothing."""
    import timm

    model = timm.create_model("resnet50", zero_init_last=False)
    model.camflow_metadata = {"task": "classification", "example": [64, 96]}
    return model


def deit_distilled():
    """Two tokens before the patches."""
    return _timm("deit_tiny_distilled_patch16_224", size=96, depth=3)


def dinov2_registers():
    """A class token and four registers before the patches."""
    return _timm("vit_small_patch14_reg4_dinov2", size=112, depth=3)
