"""Models of Hugging Face, by the name of a repository of its hub or a folder of `save_pretrained`."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import ExportError, first_line, say
from ..preprocess import fixed_size
from ..transforms import steps_from_processor
from . import LoadedModel, Metadata, TextTower, detection, scores, taken_out, timm

if TYPE_CHECKING:
    from torch import Tensor, nn

# By how the name of a model's class ends: what it gives in place of class scores, and what can be done.
REFUSED = {
    "ForDepthEstimation": ("depths and no classes", None),
    "ForPoseEstimation": ("key points and no classes", None),
    "ForKeypointDetection": ("key points and no classes", None),
    "ForImageToImage": ("images and no classes", None),
    "ForMaskedImageModeling": ("images and no classes", None),
    "ForVideoClassification": ("scores of videos: camflow explains models of one image", None),
    "ForCausalLM": ("texts", None),
    "ForConditionalGeneration": ("texts", None),
    "ForPreTraining": ("features of an image", "train a head for your classes and export that"),
}


# Inputs that are tokens of a text.
TEXTS = {"input_ids", "classes_input_ids"}
# What a tokenizer gives that a model takes along with an image.
TOKENS = ("input_ids", "attention_mask", "token_type_ids")


def library() -> Any:
    """The module `transformers`.

    Raises:
        ExportError: it is not installed.
    """
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise ExportError("transformers is not installed in this Python", "install it with `pip install transformers`") from None


def config_of(name: str) -> dict[str, Any]:
    """The `config.json` of a folder or of a repository of the hub.

    Raises:
        ExportError: there is none.
        OSError: the hub cannot be reached, or has no such repository.
    """
    path = Path(name) / "config.json"
    if not Path(name).is_dir():
        path = Path(importlib.import_module("huggingface_hub").hf_hub_download(name, "config.json"))
    if not path.is_file():
        adapter = (path.parent / "adapter_config.json").is_file()
        raise ExportError(
            f"the folder `{name}` has no `config.json`"
            + (": it holds an adapter, without the model that it adapts" if adapter else ""),
            "merge it into its model (`merge_and_unload`) and `save_pretrained` that"
            if adapter
            else "give a folder that `save_pretrained` wrote",
            code=2,
        )
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def load(
    name: str,
    weights: str,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    prompt: str | None = None,
    is_tower: bool = False,
) -> LoadedModel:
    """The model of the repository or folder `name`, with its weights where `weights` is "default", and random ones otherwise.

    CLIP-like models score `classes`: the texts that `prompt` makes of them ("{}" stands for the class). With `is_tower` they give
    the image tower, and the other one beside it.

    Raises:
        ExportError: it gives no class scores, or cannot be loaded.
    """
    config = config_of(name)
    if "architecture" in config and "model_type" not in config:
        return timm.load(f"{'local-dir' if Path(name).is_dir() else 'hf-hub'}:{name}", weights, num_classes)
    transformers = library()
    kind = str(next(iter(config.get("architectures") or ()), ""))
    build = getattr(transformers, kind, None)
    if build is None:
        raise ExportError(
            f"`{name}` names no class of transformers in `architectures` of its `config.json`"
            if not kind
            else f"`{name}` is a `{kind}`, which this transformers ({transformers.__version__}) does not have",
            "load it in a function that returns a module of class scores: `camflow export file.py:function`",
            code=2,
        )
    is_tower = is_tower and _is_clip(build)
    if not is_tower:
        check_kind(build, name, classes)
    module = _built(build, name, weights, num_classes)
    shown, source = Path(name).resolve().name if Path(name).is_dir() else name, f"hf:{name}"
    if is_tower:
        metadata, texts = towers(module, name)
        return LoadedModel(module, shown, source, metadata, texts)
    return LoadedModel(module, shown, source, adapt(module, name, classes, prompt))


def _is_clip(kind: type) -> bool:
    return hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")


def _detects_texts(kind: str) -> bool:
    """Whether it scores texts in boxes, and looks at the image without them."""
    return kind in ("OwlViTForObjectDetection", "Owlv2ForObjectDetection")


def _is_grounded(kind: str) -> bool:
    """Whether it reads the texts of all classes as one, which it lays beside the image from its encoder on."""
    return kind in ("GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection")


def _is_universal(kind: str) -> bool:
    """Whether it gives queries of classes with masks."""
    return kind.endswith("ForUniversalSegmentation") or kind == "MaskFormerForInstanceSegmentation"


def _has_embeddings(kind: type) -> bool:
    """Whether it is a network without a head, of images."""
    return kind.__name__.endswith("Model") and "pixel_values" in _arguments(kind)


def _arguments(kind: type) -> set[str]:
    return set(inspect.signature(kind.forward).parameters)  # type: ignore[attr-defined]


def check_kind(kind: type, name: str, classes: Sequence[str] | None) -> None:
    """Raise `ExportError` for a class of transformers that gives no scores of classes; `name` is the model's in messages."""
    is_clip, called = _is_clip(kind), kind.__name__
    takes_texts = _detects_texts(called) or _is_grounded(called)
    if called.endswith("ForObjectDetection") and _arguments(kind) & TEXTS and not takes_texts:
        raise ExportError(
            f"`{name}` is a `{called}`, which looks at the image with a text in mind, in a way that camflow does not read",
            "OWL-ViT, OWLv2 and Grounding DINO score texts in boxes of an image, and a detector of fixed classes needs no text",
            code=2,
        )
    ends = ("ForSemanticSegmentation", "ForObjectDetection")
    has_scores = "ForImageClassification" in called or called.endswith(ends) or _is_universal(called)
    if not (is_clip or has_scores or _has_embeddings(kind)):
        gives, hint = next((why for end, why in REFUSED.items() if called.endswith(end)), ("no scores of classes", None))
        raise ExportError(
            f"`{name}` is a `{called}`, which gives {gives}",
            hint or "wrap the part that gives scores of classes in a function: `camflow export file.py:function`",
            code=2,
        )
    if (is_clip or takes_texts) and not classes:
        raise ExportError(
            f"`{name}` is a `{called}`, which scores texts, and nothing says which",
            "`--classes` names them: a file (one a line) or a,b,c; `--prompt 'a photo of a {}'` makes sentences of them"
            + ("; `--task embedding` exports the image tower, for `camflow annotate --text`" if is_clip else ""),
            code=2,
        )


def adapt(module: Any, name: str, classes: Sequence[str] | None = None, prompt: str | None = None) -> Metadata:
    """Has a model of transformers give one tensor of scores; what is known of it.

    Raises:
        ExportError: it gives no scores of classes.
    """
    kind = type(module).__name__
    scores.without_checks(module)
    scores.without_choices(module)
    check_kind(type(module), name, classes)
    metadata = metadata_of(module, name) | {"one_size": True}
    if _is_clip(type(module)):
        metadata |= _with_texts(module, name, list(classes or ()), prompt)
    elif _has_embeddings(type(module)):
        scores.embeddings(module)
        metadata |= {"task": "embedding", "classes": {}}
    elif _is_universal(kind):
        constants = {"task_inputs": _task(name)} if kind.startswith("OneFormer") else {}
        scores.class_maps(module, resized=kind.startswith(("Mask2Former", "Eomt")), **constants)
        metadata["task"] = "segmentation"
    elif _detects_texts(kind) or _is_grounded(kind):
        texts = list(classes or ())
        metadata |= {"classes": {str(i): text for i, text in enumerate(texts)}}
        sentences = _texts(name, texts, prompt)
        if _is_grounded(kind):
            metadata |= detection.grounded(module, *_read_together(module, name, sentences))
        else:
            metadata |= detection.texts(module, _text_tower(module, name).embed(sentences))
    elif kind.endswith("ForObjectDetection"):
        metadata |= detection.queries(module, metadata["classes"])
    else:
        scores.logits(module)
        metadata["task"] = "segmentation" if kind.endswith("Segmentation") else "classification"
    return metadata


def towers(module: Any, name: str) -> tuple[Metadata, TextTower]:
    """Has a CLIP-like model of transformers give the embeddings [N, D] of images; what is known of it, and what embeds texts."""
    scores.without_checks(module)
    scores.without_choices(module)
    metadata = metadata_of(module, name) | {"one_size": True, "classes": {}, "task": "embedding"}
    texts = _text_tower(module, name)
    scores.image_tower(module, _encode_image)
    return metadata, texts


def is_clip(module: object) -> bool:
    """Whether it is a model of transformers with a tower for images and one for texts."""
    return _is_clip(type(module))


def _built(build: Any, name: str, weights: str, num_classes: int | None) -> Any:
    transformers = library()
    if weights == "default":
        return build.from_pretrained(name)
    config = transformers.AutoConfig.from_pretrained(name, **({"num_labels": num_classes} if num_classes else {}))
    return build(config)


def metadata_of(module: nn.Module, name: str) -> Metadata:
    """Classes, preprocessing and size of images, as far as the repository or folder `name` says them."""
    transformers = library()
    config: Any = module.config
    found: Metadata = {"classes": {}}
    names = getattr(config, "id2label", None) or {}
    if not all(str(label) == f"LABEL_{i}" for i, label in names.items()):  # what a model has whose author named none
        found["classes"] = {str(i): str(label) for i, label in names.items()}
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        say(f"note: `{name}` has no image processor that could be read: {first_line(error)}")
    else:
        found["preprocess"] = steps_from_processor(processor.to_dict())
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    size = fixed_size(found.get("preprocess")) or ((size, size) if isinstance(size, int) else size)
    if isinstance(size, (list, tuple)) and len(size) == 2:
        found["example"] = list(size)
    return found


def _task(name: str) -> Tensor:
    """The tokens [1, T] of the task that OneFormer is asked for: scores of each pixel's class."""
    processor = library().AutoProcessor.from_pretrained(name)
    tokens = processor.tokenizer(
        "the task is semantic", padding="max_length", max_length=processor.task_seq_length, truncation=True, return_tensors="pt"
    )
    found: Tensor = tokens["input_ids"] * tokens["attention_mask"]  # as its processor has it: what fills up is 0
    return found


def _with_texts(module: Any, name: str, classes: list[str], prompt: str | None) -> Metadata:
    """Has the module give scores of classes: their texts are embedded once, and the text's network is left out."""
    tower = _text_tower(module, name)
    embedded = tower.embed(_texts(name, classes, prompt))
    scores.similarities(module, _encode_image, embedded, tower.scale, tower.bias)
    return {"classes": {str(i): text for i, text in enumerate(classes)}, "task": "classification"}


def _texts(name: str, classes: Sequence[str], prompt: str | None) -> list[str]:
    """The texts of classes, with a note where they are the bare names."""
    if prompt is None:
        say(
            f"note: the texts that `{name}` scores are the names of the classes; `--prompt 'a photo of a {{}}'` makes sentences of them"
        )
    return [(prompt or "{}").replace("{}", text) for text in classes]


def _read_together(module: Any, name: str, texts: Sequence[str]) -> tuple[dict[str, Tensor], list[range]]:
    """The tokens [1, T] of all texts as one, as transformers' processor writes it ("a cat. a dog."), and where those of each text are.

    Raises:
        ExportError: they are more than the model reads, or the tokenizer does not keep the texts apart.
    """
    tokenizer, limit = library().AutoTokenizer.from_pretrained(name), module.config.max_text_len
    whole = "".join(f"{text.strip().lower()}. " for text in texts).rstrip()
    taken = {key: value for key, value in tokenizer(whole, return_tensors="pt").items() if key in TOKENS}
    ids = taken["input_ids"][0].tolist()
    if len(ids) > limit:
        raise ExportError(
            f"the texts of {len(texts)} classes have {len(ids)} tokens, and `{name}` reads {limit} of all classes together",
            "give it fewer classes, or say them in fewer words",
            code=2,
        )
    # what separates texts for the model itself
    ends = [place for place, token in enumerate(ids) if token in module.model.special_tokens.tolist()]
    places = [range(before + 1, end) for before, end in itertools.pairwise([-1, *ends]) if end > before + 1]
    if len(places) != len(texts) or len({tuple(ids[place] for place in own) for own in places}) < len(set(texts)):
        raise ExportError(
            f"the tokenizer of `{name}` does not make a sequence of tokens of its own of each of {len(texts)} texts",
            "full stops and question marks separate texts for this model: write classes without them; otherwise the files of its "
            "tokenizer are probably missing",
        )
    return taken, places


def _encode_image(module: Any, images: Tensor) -> Tensor:
    return _pooled(module.get_image_features(pixel_values=images))


def _pooled(found: Any) -> Tensor:
    import torch

    tensor: Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return tensor


def _text_tower(module: Any, name: str) -> TextTower:
    """What embeds the texts of a CLIP-like model or a detector of texts; its network is taken out of the module."""
    import torch

    tokenizer = library().AutoTokenizer.from_pretrained(name)
    is_siglip = "siglip" in str(module.config.model_type)
    limit = getattr(getattr(module.config, "text_config", None), "max_position_embeddings", None)
    # a detector has the network of texts in a part of its own
    both = module if _is_clip(type(module)) else getattr(module, module.base_model_prefix)
    whole: Any = taken_out(both.eval().float(), ("text_model", "text_projection"))

    def embed(texts: Sequence[str]) -> Tensor:
        scores.check_lengths(texts, lambda given: [len(ids) for ids in tokenizer(list(given))["input_ids"]], limit)
        # SigLIP was trained on texts of one length
        padding = "max_length" if is_siglip else True
        tokens = tokenizer(list(texts), padding=padding, max_length=limit, truncation=True, return_tensors="pt")
        if len({tuple(row) for row in tokens["input_ids"].tolist()}) < len(set(texts)):
            raise ExportError(
                f"the tokenizer of `{name}` makes the same tokens of different texts",
                "the files of its tokenizer are probably missing",
            )
        taken = {key: value for key, value in tokens.items() if key in ("input_ids", "attention_mask")}
        if is_siglip:
            taken.pop("attention_mask", None)  # which it was trained without
        with torch.no_grad():
            return _pooled(whole.get_text_features(**taken)).float()

    # ALIGN divides by what others multiply with, and has no logarithm of it
    scale = 1.0
    if hasattr(module, "logit_scale") and _is_clip(type(module)):
        scale = float(module.logit_scale.detach().float().exp())
    elif hasattr(module, "temperature"):
        scale = float(1 / module.temperature.detach().float())
    bias = getattr(module, "logit_bias", None)
    return TextTower(embed, scale, 0.0 if bias is None else float(bias), "softmax" if bias is None else "sigmoid", "{}")
