"""What each kind of model in FiftyOne's zoo gives, and whether that is scores of classes, detections or an embedding."""

from __future__ import annotations

from typing import Any

TORCHVISION = ("TorchvisionImageModel", "TorchImageModel")
CLIP = ("TorchCLIPModel", "TorchOpenClipModel")
ULTRALYTICS = ("FiftyOneYOLOModel", "FiftyOneRTDETRModel", "FiftyOneYOLOEVPModel")
RFDETR = ("RFDETRDetectionModel", "RFDETRSegmentationModel")
# Of Ultralytics' output processors, those whose models are read.
READ = (
    *(f"Ultralytics{task}OutputProcessor" for task in ("Classification", "Detection", "Segmentation", "Pose", "OBB")),
    "YOLOEVPSegmentationOutputProcessor",
)
# A class of FiftyOne -> the repository that it takes where an entry of the zoo names none.
HUGGING_FACE = {
    "FiftyOneTransformerForImageClassification": "google/vit-base-patch16-224",
    "FiftyOneTransformerForSemanticSegmentation": "nvidia/segformer-b0-finetuned-ade-512-512",
    "FiftyOneTransformerForUniversalSegmentation": "facebook/mask2former-swin-tiny-coco-instance",
    "FiftyOneZeroShotTransformerForImageClassification": "openai/clip-vit-large-patch14",
    "FiftyOneTransformerForObjectDetection": "hustvl/yolos-tiny",
    "FiftyOneZeroShotTransformerForObjectDetection": "google/owlvit-base-patch32",
    "FiftyOneTransformer": "",  # each entry names one
}
# In names of repositories: OWL-ViT, Grounding DINO and LLMDet, which is one.
SCORES_TEXTS = ("owlvit", "grounding-dino", "llmdet")
CLASSES = "explain a classifier, a segmentation model or a detector that is taken, of the same classes, in its place"
NETWORK = "wrap the part of its network that gives scores of classes in a function: `camflow export file.py:function`"
# What a class of FiftyOne, or its output processor, gives in place of class scores, and what can be done.
REFUSED = {
    "DetectorOutputProcessor": ("boxes", CLASSES),
    "InstanceSegmenterOutputProcessor": ("boxes with masks", CLASSES),
    "KeypointDetectorOutputProcessor": ("key points", CLASSES),
    "TorchYoloNasModel": ("boxes", CLASSES),
    "FCCLIPModel": ("masks of objects, by code that is downloaded with its weights", CLASSES),
    "FiftyOneZeroShotTransformerForSemanticSegmentation": (
        "scores of pixels for a text, by groups of pixels that camflow does not read",
        "`zero-shot-classification-transformer-torch` scores texts for whole images",
    ),
    "FiftyOneTransformerForPoseEstimation": ("key points in boxes", None),
    "FiftyOneTransformerForDepthEstimation": ("depths", None),
    "DepthAnythingV3Model": ("depths", None),
    "AppleSharpModel": ("a scene in three dimensions", None),
    "SegmentAnythingModel": ("masks for a prompt", None),
    "SegmentAnything2ImageModel": ("masks for a prompt", None),
    "SegmentAnything2VideoModel": ("masks in videos for a prompt", None),
    "SegmentAnything3ImageModel": ("masks for a prompt", None),
    "SegmentAnything3VideoModel": ("masks in videos for a prompt", None),
    "PaddleOCRDetectionModel": ("places of text", None),
    "PaddleOCRModel": ("text", None),
    "Qwen3VLModel": ("text or its features", None),
    "PEVisionEncoder": (
        "features of an image, by code that is downloaded with its weights",
        "wrap its network in a function: `camflow export file.py:function --task embedding`",
    ),
}


def kind_of(entry: dict[str, Any]) -> str:
    """The class of FiftyOne that runs an entry of the manifest."""
    kind: str = entry["default_deployment_config_dict"]["type"].rpartition(".")[2]
    return kind


def checkpoint(entry: dict[str, Any]) -> str:
    """The file of weights that an entry of Ultralytics names, or ""."""
    arguments = entry["default_deployment_config_dict"]["config"].get("entrypoint_args") or {}
    return str(arguments.get("model") or "")


def refusal(entry: dict[str, Any]) -> tuple[str, str | None] | None:
    """(what the model of an entry gives, what can be done or None) where that is nothing that camflow explains, else None."""
    kind, config = kind_of(entry), entry["default_deployment_config_dict"]["config"]
    processor = str(config.get("output_processor_cls")).rpartition(".")[2]
    repository = config.get("name_or_path") or HUGGING_FACE.get(kind, "")
    if kind == "FiftyOneZeroShotTransformerForObjectDetection" and not any(part in repository for part in SCORES_TEXTS):
        return "boxes, by a network in which text and image mix in a way that camflow does not read", CLASSES
    if kind in (*CLIP, *HUGGING_FACE, *RFDETR) or (kind in ULTRALYTICS and processor in READ):
        return None
    if kind in TORCHVISION and processor in ("ClassifierOutputProcessor", "SemanticSegmenterOutputProcessor", "None"):
        return None
    if kind in TORCHVISION and str(config.get("entrypoint_fcn")).startswith("torchvision.models.detection."):
        return None
    return REFUSED.get(processor) or REFUSED.get(kind) or (f"what FiftyOne's `{kind}` makes of it", NETWORK)
