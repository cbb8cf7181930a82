"""Networks of transformers and open_clip for `models_harness.py`: small, as nothing but their shape matters, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import transformers as t
from camflow.export.weights import warm_batchnorm

import torch
from torch import nn

NAMES = dict(enumerate(("cat", "dog", "bird", "fish", "ant")))
SIDE = 96
# Of plain transformers: six blocks are enough to tell the last from the others.
PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": SIDE,
    "patch_size": 16,
}
SWIN = {"patch_size": 4, "embed_dim": 16, "window_size": 4, "depths": [2, 2, 2], "num_heads": [2, 4, 4]}
TEXT = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
BLOCKS = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}


def classifier(kind: str, side: int = SIDE, **config: Any) -> Callable[[], tuple[Any, int]]:
    """Makes `kind`ForImageClassification of a config, with the side of its images."""
    return of(f"{kind}ForImageClassification", f"{kind}Config", side, **config)


def of(model: str, config: str, side: int, **arguments: Any) -> Callable[[], tuple[Any, int]]:
    """Makes a model by the names of its class and of its configuration's."""
    return lambda: (getattr(t, model)(getattr(t, config)(id2label=NAMES, **arguments)), side)


def texts(
    kind: str, side: int = SIDE, vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **arguments: Any
):
    """Makes a model that scores texts."""
    return lambda: (
        getattr(t, f"{kind}Model")(
            getattr(t, f"{kind}Config")(
                text_config=BLOCKS | TEXT | (text or {}),
                vision_config=BLOCKS | {"image_size": side, "patch_size": 16} if vision is None else vision,
                **arguments,
            )
        ),
        side,
    )


def universal(kind: str, depths: tuple[int, ...] = (1, 1, 1, 1), **arguments: Any) -> Callable[[], tuple[Any, int]]:
    """Makes a universal segmenter with a Swin inside."""
    backbone = t.SwinConfig(
        image_size=128,
        out_features=[f"stage{number}" for number in range(1, 5)],
        **{**SWIN, "depths": list(depths), "num_heads": [2, 2, 4, 4]},
    )
    sizes = {"encoder_layers": 1, "decoder_layers": 3, "num_attention_heads": 4, "dim_feedforward": 32, "num_queries": 7}
    return lambda: (
        getattr(t, f"{kind}ForUniversalSegmentation")(
            getattr(t, f"{kind}Config")(
                backbone_config=backbone, hidden_dim=32, encoder_feedforward_dim=32, id2label=NAMES, **sizes, **arguments
            )
        ),
        128,
    )


def maskformer() -> tuple[Any, int]:
    """The one whose name says instances, with DETR's decoder."""
    decoder = t.DetrConfig(
        d_model=32,
        decoder_layers=2,
        encoder_layers=2,
        decoder_attention_heads=2,
        encoder_attention_heads=2,
        decoder_ffn_dim=32,
        encoder_ffn_dim=32,
        num_queries=7,
    )
    backbone = t.SwinConfig(
        image_size=128,
        out_features=[f"stage{number}" for number in range(1, 5)],
        **{**SWIN, "depths": [1, 1, 1, 1], "num_heads": [2, 2, 4, 4]},
    )
    config = t.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32, id2label=NAMES
    )
    return t.MaskFormerForInstanceSegmentation(config), 128


def upernet() -> tuple[Any, int]:
    """With a ConvNeXt inside."""
    backbone = t.ConvNextConfig(out_features=[f"stage{number}" for number in range(1, 5)], **STAGES)
    config = t.UperNetConfig(
        backbone_config=backbone,
        hidden_size=32,
        auxiliary_channels=16,
        auxiliary_in_channels=24,
        id2label=NAMES,
        use_auxiliary_head=False,
    )
    return t.UperNetForSemanticSegmentation(config), 128


def timm_wrapper() -> tuple[Any, int]:
    """A network of timm in transformers' clothes."""
    config = t.TimmWrapperConfig(architecture="resnet18", num_labels=len(NAMES), id2label=NAMES)
    return t.TimmWrapperForImageClassification(config), SIDE


HEADS = {"num_attention_heads": [1, 2, 2, 4]}
TRANSFORMERS: dict[str, Callable[[], tuple[Any, int]]] = {
    "beit": classifier("Beit", **PLAIN),
    "bit": classifier("Bit", **STAGES, embedding_size=8, num_groups=4),
    "clip_classifier": classifier("CLIP", vision_config=PLAIN, text_config=BLOCKS | TEXT),
    "convnext": classifier("ConvNext", **STAGES),
    "convnextv2": classifier("ConvNextV2", **STAGES),
    "cvt": classifier("Cvt", embed_dim=[16, 32, 48], num_heads=[1, 2, 3], depth=[1, 2, 3]),
    "data2vec_vision": classifier("Data2VecVision", **PLAIN),
    "deit": classifier("DeiT", **PLAIN),
    "deit_teacher": of("DeiTForImageClassificationWithTeacher", "DeiTConfig", SIDE, **PLAIN),
    "dinov2": classifier("Dinov2", **PLAIN),
    "dinov2_with_registers": classifier("Dinov2WithRegisters", **PLAIN),
    "efficientnet": classifier(
        "EfficientNet", width_coefficient=0.3, depth_coefficient=0.3, image_size=SIDE, hidden_dim=384, initializer_range=0.2
    ),
    "focalnet": classifier(
        "FocalNet", image_size=128, side=128, embed_dim=16, depths=[1, 1, 2, 1], hidden_sizes=[16, 32, 48, 64]
    ),
    "hgnet_v2": classifier("HGNetV2", side=128),
    "hiera": classifier(
        "Hiera",
        side=128,
        image_size=[128, 128],
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 4],
        masked_unit_size=[8, 8],
    ),
    "ijepa": classifier("IJepa", **PLAIN),
    "levit": classifier(
        "Levit", image_size=128, side=128, hidden_sizes=[16, 32, 48], num_attention_heads=[2, 2, 2], depths=[1, 1, 1]
    ),
    "levit_teacher": of(
        "LevitForImageClassificationWithTeacher",
        "LevitConfig",
        128,
        image_size=128,
        hidden_sizes=[16, 32, 48],
        num_attention_heads=[2, 2, 2],
        depths=[1, 1, 1],
    ),
    "metaclip_2_classifier": classifier("MetaClip2", vision_config=PLAIN, text_config=BLOCKS | TEXT),
    "mobilenet_v1": classifier("MobileNetV1", image_size=128, side=128, depth_multiplier=0.25),
    "mobilenet_v2": classifier("MobileNetV2", image_size=128, side=128, depth_multiplier=0.25),
    "mobilevit": classifier(
        "MobileViT", image_size=128, side=128, hidden_sizes=[16, 24, 32], neck_hidden_sizes=[8, 8, 16, 24, 32, 32, 64]
    ),
    "mobilevitv2": classifier("MobileViTV2", image_size=128, side=128, width_multiplier=0.25),
    "poolformer": classifier("PoolFormer", hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1]),
    "pp_lcnet": classifier("PPLCNet", side=128, scale=0.25),
    "pvt": classifier(
        "Pvt",
        num_labels=len(NAMES),
        image_size=128,
        side=128,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
    ),
    "pvt_v2": classifier(
        "PvtV2", image_size=128, side=128, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4]
    ),
    "regnet": classifier("RegNet", **STAGES, embedding_size=8, groups_width=8),
    "resnet": classifier("ResNet", **STAGES, embedding_size=8),
    "segformer_classifier": classifier("Segformer", side=128, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1], **HEADS),
    "siglip_classifier": classifier("Siglip", vision_config=PLAIN, text_config=BLOCKS | TEXT),
    "swiftformer": classifier("SwiftFormer", side=128, image_size=128, depths=[1, 1, 2, 1], embed_dims=[8, 16, 24, 32]),
    "swin": classifier("Swin", side=128, image_size=128, **SWIN),
    "swinv2": classifier("Swinv2", side=128, image_size=128, **SWIN),
    "textnet": classifier("TextNet", side=128),
    "timm_wrapper": timm_wrapper,
    "vit": classifier("ViT", **PLAIN),
    "vit_msn": classifier("ViTMSN", **PLAIN),
    "dpt": of(
        "DPTForSemanticSegmentation",
        "DPTConfig",
        SIDE,
        **PLAIN,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        use_auxiliary_head=False,
    ),
    "eomt": of("EomtForUniversalSegmentation", "EomtConfig", SIDE, **PLAIN, num_queries=7, num_blocks=1, num_upscale_blocks=1),
    "mask2former": universal("Mask2Former", feature_size=32, mask_feature_size=32),
    "maskformer": maskformer,
    "mobilevit_maps": of(
        "MobileViTForSemanticSegmentation",
        "MobileViTConfig",
        128,
        image_size=128,
        hidden_sizes=[16, 24, 32],
        neck_hidden_sizes=[8, 8, 16, 24, 32, 32, 64],
        aspp_out_channels=16,
    ),
    "oneformer": universal("OneFormer", (2, 2, 2, 2), conv_dim=32, mask_dim=32, query_dec_layers=1, is_training=False),
    "segformer": of(
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        128,
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=32,
        **HEADS,
    ),
    "upernet": upernet,
    "beit_maps": of(
        "BeitForSemanticSegmentation",
        "BeitConfig",
        SIDE,
        **PLAIN,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        use_auxiliary_head=False,
    ),
    "altclip": texts("AltCLIP", text={"project_dim": 24}, projection_dim=24),
    "chinese_clip": texts("ChineseCLIP", projection_dim=24),
    "clip": texts("CLIP", projection_dim=24),
    "clipseg": texts("CLIPSeg", projection_dim=24),
    "groupvit": texts(
        "GroupViT",
        vision={
            "hidden_size": 32,
            "depths": [6, 1, 1],
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "image_size": SIDE,
            "patch_size": 16,
            "num_group_tokens": [10, 5, 0],
            "num_output_groups": [10, 5, 0],
            "num_hidden_layers": 4,
        },
        projection_dim=24,
        projection_intermediate_dim=32,
    ),
    "align": texts(
        "Align",
        128,
        vision={
            "width_coefficient": 0.3,
            "depth_coefficient": 0.3,
            "image_size": 128,
            "hidden_dim": 384,
            "initializer_range": 0.2,
        },
        projection_dim=96,
    ),
    "metaclip_2": texts("MetaClip2", projection_dim=24),
    "siglip": texts("Siglip"),
}


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(("<start>", "<end>", "cat", "dog", "bird"))}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)])
    return t.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<start>", eos_token="<end>", pad_token="<end>")


def save(name: str, folder: Path) -> None:
    """Writes the model of TRANSFORMERS as `save_pretrained` does."""
    torch.manual_seed(0)
    model, side = TRANSFORMERS[name]()
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        images = model.vision_model if hasattr(model, "get_text_features") else model
        warm_batchnorm(images.eval(), 4, (side, side))
    model.save_pretrained(folder)
    t.ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    if hasattr(model, "get_text_features") or name == "oneformer":
        tokenizer().save_pretrained(folder)


def save_timm(name: str, arguments: dict[str, Any], folder: Path) -> None:
    """Writes timm's network `name`, made with `arguments`, as `timm.models.save_for_hf` does.

    Classifiers that begin with weights of zero would score every image the same: theirs are drawn.
    """
    import timm

    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=len(NAMES), **arguments).eval()
    for classifier in model.get_classifier().modules():
        if isinstance(classifier, nn.Linear) and not classifier.weight.any():
            nn.init.trunc_normal_(classifier.weight, std=0.02)
    side = arguments.get("img_size") or model.pretrained_cfg["input_size"][-1]
    warm_batchnorm(model, 4, (side, side))
    timm.models.save_for_hf(model, folder, model_args=arguments)


def vit_b_32() -> nn.Module:
    """torchvision's, whose classifier begins with weights of zero and would score every image the same."""
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.vit_b_32(num_classes=len(NAMES)).eval()
    nn.init.trunc_normal_(model.heads.head.weight, std=0.02)
    return model


class Texts(nn.Module):
    """The image's network of a CLIP, scoring three texts: as people wrap it."""

    def __init__(self, clip: Any, width: int):
        super().__init__()
        self.visual = clip.visual
        self.texts = nn.Parameter(nn.functional.normalize(torch.randn(3, width), dim=-1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.visual(images)
        found = found[0] if isinstance(found, tuple) else found
        return 100 * nn.functional.normalize(found, dim=-1) @ self.texts.T


def _open_clip(vision: dict[str, Any], **more: Any) -> nn.Module:
    import open_clip

    torch.manual_seed(0)
    text = {"context_length": 16, "vocab_size": 99, "width": 32, "heads": 2, "layers": 2}
    model = open_clip.model.CLIP(24, {"image_size": SIDE, **vision}, text, **more).eval()
    warm_batchnorm(model.visual, 4, (SIDE, SIDE))
    return Texts(model, 24)


def open_clip_vit() -> nn.Module:
    """open_clip's vision transformer."""
    return _open_clip({"layers": 4, "width": 64, "head_width": 16, "patch_size": 16})


def open_clip_resnet() -> nn.Module:
    """open_clip's ResNet, which ends in attention pooling."""
    return _open_clip({"layers": [1, 1, 2, 1], "width": 16, "head_width": 16, "patch_size": None})


def open_clip_convnext() -> nn.Module:
    """open_clip around a network of timm."""
    return _open_clip(
        {"timm_model_name": "convnext_atto", "timm_model_pretrained": False, "timm_pool": "", "timm_proj": "linear"}
    )


def open_clip_coca() -> nn.Module:
    """The vision transformer of CoCa, with its pooling by attention."""
    return _open_clip(
        {
            "layers": 4,
            "width": 64,
            "head_width": 16,
            "patch_size": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "output_tokens": True,
        }
    )


def openai_clip_resnet() -> nn.Module:
    """OpenAI's CLIP, in FiftyOne's copy, with a ResNet."""
    return _openai_clip((1, 1, 2, 1), 16, None)


def openai_clip_vit() -> nn.Module:
    """The same with a vision transformer, which has its tokens first: `[T, N, C]`."""
    return _openai_clip(4, 64, 16)


def _openai_clip(layers: int | tuple[int, ...], width: int, patch: int | None) -> nn.Module:
    from fiftyone.utils.clip.model import CLIP

    torch.manual_seed(0)
    model = CLIP(24, SIDE, layers, width, patch, 16, 99, 32, 2, 2).eval()
    warm_batchnorm(model.visual, 4, (SIDE, SIDE))
    return Texts(model, 24)
