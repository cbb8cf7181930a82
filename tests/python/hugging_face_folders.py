"""Folders as `save_pretrained` writes them, of small networks of transformers with random weights."""

from __future__ import annotations

from pathlib import Path

import transformers as t

import torch

NAMES = dict(enumerate(("cat", "dog", "bird", "fish")))
SWIN = {"patch_size": 4, "embed_dim": 16, "window_size": 4}


def vit():
    config = t.ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=64,
        patch_size=16,
        id2label=NAMES,
    )
    return t.ViTForImageClassification(config), t.ViTImageProcessor(size={"height": 64, "width": 64})


def convnext():
    config = t.ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1], id2label=NAMES)
    return t.ConvNextForImageClassification(config), t.ConvNextImageProcessor(size={"shortest_edge": 224})


def convnext_384():
    return convnext()[0], t.ConvNextImageProcessor(size={"shortest_edge": 384})


def efficientnet():
    config = t.EfficientNetConfig(width_coefficient=0.3, depth_coefficient=0.3, image_size=64, hidden_dim=384, id2label=NAMES)
    processor = t.EfficientNetImageProcessor(size={"height": 64, "width": 64}, image_std=[0.2, 0.3, 0.4])
    return t.EfficientNetForImageClassification(config), processor


def swinv2():
    config = t.Swinv2Config(image_size=64, depths=[2, 2], num_heads=[2, 4], id2label=NAMES, **SWIN)
    return t.Swinv2ForImageClassification(config), t.ViTImageProcessor(size={"height": 64, "width": 64})


def segformer():
    config = t.SegformerConfig(
        hidden_sizes=[8, 16, 24, 32],
        depths=[1, 1, 1, 1],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        id2label=NAMES,
    )
    return t.SegformerForSemanticSegmentation(config), t.SegformerImageProcessor(size={"height": 128, "width": 128})


def detr():
    """A detector with eight classes and twenty queries."""
    backbone = t.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage4"]
    )
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = t.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=20,
        id2label=dict(enumerate(("person", "dog", "cat", "car", "bus", "horse", "sheep", "bird"))),
        **heads,
    )
    return t.DetrForObjectDetection(config), t.DetrImageProcessor(size={"height": 160, "width": 192})


def spread_detr():
    """The same with boxes of several sizes all over the image: of weights as they are drawn, all are nearly one."""
    model, processor = detr()
    last = model.bbox_predictor.layers[-1]
    with torch.no_grad():
        model.model.query_position_embeddings.weight.normal_(0, 1)
        for weights in model.model.decoder.parameters():
            if weights.dim() == 2:
                weights.normal_(0, 1)
        for layer in model.bbox_predictor.layers:
            layer.weight.normal_(0, 0.25)
        # A fifth of the image on each side, more or less.
        last.weight[2:].mul_(0.2)
        last.bias.copy_(torch.tensor([0, 0, -1.4, -1.4]))
        model.class_labels_classifier.weight.normal_(0, 0.5)
    return model, processor


def swin_and_decoder():
    """What universal segmentation of both kinds has: a Swin and a decoder of seven queries."""
    stages = [f"stage{number}" for number in range(1, 5)]
    swin = t.SwinConfig(image_size=64, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], out_features=stages, **SWIN)
    return {
        "backbone_config": swin,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "num_attention_heads": 4,
        "dim_feedforward": 32,
        "encoder_feedforward_dim": 32,
        "num_queries": 7,
        "id2label": NAMES,
    }


def mask2former():
    config = t.Mask2FormerConfig(
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        **swin_and_decoder(),
    )
    return t.Mask2FormerForUniversalSegmentation(config), t.Mask2FormerImageProcessor(size={"height": 64, "width": 64})


def oneformer():
    config = t.OneFormerConfig(
        hidden_dim=32,
        conv_dim=32,
        mask_dim=32,
        query_dec_layers=1,
        is_training=False,
        **swin_and_decoder(),
    )
    processor = t.OneFormerImageProcessor(size={"height": 64, "width": 64}, num_text=2)
    return t.OneFormerForUniversalSegmentation(config), processor


def clip():
    texts = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = t.CLIPConfig(
        text_config=network | texts, vision_config=network | {"image_size": 64, "patch_size": 16}, projection_dim=24
    )
    processor = t.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    return t.CLIPModel(config), processor


def siglip():
    texts = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = t.SiglipConfig(text_config=network | texts, vision_config=network | {"image_size": 64, "patch_size": 16})
    model = t.SiglipModel(config)
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
    return model, t.SiglipImageProcessor(size={"height": 64, "width": 64})


def dinov3():
    config = t.DINOv3ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16
    )
    return t.DINOv3ViTModel(config), t.DINOv3ViTImageProcessorFast(size={"height": 64, "width": 64})


def yolos():
    config = t.YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[64, 64],
        num_detection_tokens=5,
    )
    return t.YolosForObjectDetection(config), t.YolosImageProcessor()


def owlvit():
    texts = {"vocab_size": 99, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    network = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    config = t.OwlViTConfig(
        text_config=network | texts, vision_config=network | {"image_size": 64, "patch_size": 16}, projection_dim=32
    )
    return t.OwlViTForObjectDetection(config), t.OwlViTImageProcessor(size={"height": 64, "width": 64})


def _grounded(config, model, **more):
    texts = {"vocab_size": 1100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    images = t.SwinConfig(image_size=64, depths=[1, 1, 1], num_heads=[1, 2, 2], out_indices=[2, 3], **SWIN)
    network = {
        "d_model": 32,
        "encoder_layers": 2,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 64,
        "num_queries": 12,
        "num_feature_levels": 3,
        "max_text_len": 24,
    }
    built = model(config(backbone_config=images, text_config=t.BertConfig(**texts), **network, **more))
    with torch.no_grad():
        for name, value in built.named_parameters():
            # Texts and images meet by parts that begin at nearly 0, where nothing would depend on both.
            if name.endswith(("vision_param", "text_param")):
                value.fill_(0.5)
            if "bbox_embed" in name or "sampling_offsets" in name:
                value.copy_(torch.randn_like(value) * 0.3)
    processor = t.GroundingDinoImageProcessor(size={"height": 64, "width": 96}, do_pad=False)
    return built, processor


def grounding_dino():
    return _grounded(t.GroundingDinoConfig, t.GroundingDinoForObjectDetection)


def mm_grounding_dino():
    return _grounded(t.MMGroundingDinoConfig, t.MMGroundingDinoForObjectDetection)


def bert_tokenizer():
    """One token a word or full stop, and BERT's numbers for those that mean something to Grounding DINO."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(("<pad>", "<unknown>", "a", "photo", "of", "cat", "dog", "bird", "red"))}
    words |= {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
    made = Tokenizer(models.WordLevel(words, unk_token="<unknown>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", 101), ("[SEP]", 102)]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return t.PreTrainedTokenizerFast(tokenizer_object=made, cls_token="[CLS]", sep_token="[SEP]", pad_token="<pad>")


def tokenizer():
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {word: number for number, word in enumerate(("<start>", "<end>", "a", "photo", "of", "cat", "dog", "bird"))}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)])
    return t.PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<start>", eos_token="<end>", pad_token="<end>")


def save(build, folder: Path) -> Path:
    """What `build` makes, in `folder`."""
    torch.manual_seed(0)
    model, processor = build()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if build in (clip, siglip, oneformer, owlvit):
        tokenizer().save_pretrained(folder)
    if build in (grounding_dino, mm_grounding_dino):
        bert_tokenizer().save_pretrained(folder)
    return folder
