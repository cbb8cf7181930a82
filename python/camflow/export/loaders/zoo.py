"""Models of FiftyOne's zoo, by name."""

from __future__ import annotations

import functools
import importlib.util
import json
import unittest.mock
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..messages import ExportError, unknown
from ..transforms import attribute, steps_from_transforms, steps_from_zoo_config
from . import LoadedModel, Metadata, clip, hugging_face, of_classes, rfdetr, ultralytics, without_weights
from .zoo_kinds import CLIP, HUGGING_FACE, NETWORK, REFUSED, RFDETR, TORCHVISION, ULTRALYTICS, checkpoint, kind_of, refusal

# What follows a model's name in the zoo: the data that it was trained on, and the library.
TAILS = ("-torch", *(f"-{data}-torch" for data in ("coco", "imagenet", "ade20k", "oiv7", "dotav1")))


def manifest() -> dict[str, dict[str, Any]]:
    """Name -> entry of FiftyOne's zoo of torch models, read without importing FiftyOne (which takes seconds)."""
    spec = importlib.util.find_spec("fiftyone")
    path = Path(spec.origin).parent / "zoo" / "models" / "manifest-torch.json" if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    entries = json.loads(path.read_text())["models"]
    return {e["base_name"] + (f"@{e['version']}" if e.get("version") else ""): e for e in entries}


def whole_name(short: str) -> str | None:
    """The zoo's name for a model without what it is followed by there: `yolo11n-coco-torch` for `yolo11n`."""
    names = manifest()
    return next((name for tail in TAILS if (name := short + tail) in names), None)


def load(
    name: str,
    weights: str,
    num_classes: int | None = None,
    classes: Sequence[str] | None = None,
    prompt: str | None = None,
    is_tower: bool = False,
) -> LoadedModel:
    """The model `name`, with its published weights where `weights` is "default", and random ones otherwise.

    CLIP-like models score `classes`, or those that the zoo says; `prompt` ("{}" stands for the class) makes texts of them. With
    `is_tower` they give the image tower, and the other one beside it.

    Raises:
        ExportError: there is none of that name, FiftyOne is not installed, or the model gives nothing that camflow explains.
    """
    entries = manifest()
    if not entries:
        raise ExportError(
            "FiftyOne is not installed in this Python",
            "install it with `pip install fiftyone`, or name a torchvision or timm model",
        )
    if name not in entries:
        raise unknown(name, entries, "FiftyOne's zoo")
    entry, kind = entries[name], kind_of(entries[name])
    if refused := refusal(entry):
        gives, hint = refused
        raise ExportError(
            f"`{name}` gives {gives}: camflow explains scores of classes, of an image, its pixels or boxes, and embeddings",
            hint or NETWORK,
            code=2,
        )
    config = entry["default_deployment_config_dict"]["config"]
    if kind in HUGGING_FACE:
        repository = config.get("name_or_path") or HUGGING_FACE[kind]
        loaded = hugging_face.load(repository, weights, num_classes, classes, prompt, is_tower)
        return LoadedModel(loaded.module, name, f"fiftyone:{name}", loaded.metadata, loaded.texts)
    if kind in ULTRALYTICS and weights != "default":
        loaded = ultralytics.load(checkpoint(entries[name]), weights, num_classes, classes, prompt)
        return LoadedModel(loaded.module, name, f"fiftyone:{name}", loaded.metadata)
    if kind in RFDETR and weights != "default":
        loaded = rfdetr.load(config["model_type"], weights, num_classes)
        return LoadedModel(loaded.module, name, f"fiftyone:{name}", loaded.metadata)
    if kind in (*ULTRALYTICS, *RFDETR, *CLIP):
        loaded = of_object(_zoo_model(name, weights), {"classes": classes, "prompt": prompt, "is_tower": is_tower})
        return LoadedModel(loaded.module, name, f"fiftyone:{name}", loaded.metadata, loaded.texts)
    metadata = metadata_of(config)
    if weights == "default":
        module = _zoo_model(name, weights)._model  # the nn.Module inside FiftyOne's wrapper; it has no public name
    else:
        entrypoint = config["entrypoint_fcn"]
        if not entrypoint.startswith("torchvision."):
            raise ExportError(f"`{name}` cannot be built without its published weights", "leave out `--weights`", code=2)
        arguments = {k: v for k, v in (config.get("entrypoint_args") or {}).items() if k != "weights"}
        module = without_weights(attribute(entrypoint), **{**arguments, **of_classes(num_classes)})
    return LoadedModel(module, name, f"fiftyone:{name}", metadata)


def _zoo_model(name: str, weights: str) -> Any:
    """FiftyOne's model `name` on the CPU, with its published weights."""
    if weights != "default":
        raise ExportError(f"`{name}` cannot be built without its published weights", "leave out `--weights`", code=2)
    import fiftyone as fo
    import fiftyone.zoo as foz
    from torchvision.models import _api

    # FiftyOne (1.22) puts the checkpoint into its own folder and then misses it: torchvision looks into torch's cache
    # and downloads the file again. Point torchvision at FiftyOne's folder meanwhile.
    from_zoo = functools.partial(_api.load_state_dict_from_url, model_dir=fo.config.model_zoo_dir)
    with unittest.mock.patch.object(_api, "load_state_dict_from_url", from_zoo):
        return foz.load_zoo_model(name, device="cpu", cache=False, use_half_precision=False)


def of_object(model: Any, texts: Mapping[str, Any]) -> LoadedModel:
    """A model that FiftyOne loaded, or an `nn.Module`.

    `texts` are the classes and the prompt of one that scores texts, and whether its image tower is wanted.

    Raises:
        ExportError: it gives no scores of classes.
    """
    import torch

    kinds = [kind.__name__ for kind in type(model).__mro__]
    if type(model).__module__.startswith("ultralytics.") and hasattr(model, "task"):
        module, metadata = ultralytics.network(model, texts["classes"], texts["prompt"])
        return LoadedModel(module, kinds[0], f"object:{kinds[0]}", metadata)
    if type(model).__module__.startswith("rfdetr.") and hasattr(model, "model_config"):
        module, metadata = rfdetr.network(model)
        return LoadedModel(module, kinds[0], f"object:{kinds[0]}", metadata)
    if isinstance(model, torch.nn.Module) or "TorchImageModel" not in kinds:
        return LoadedModel(model, type(model).__name__, f"object:{type(model).__name__}", {})
    module, config = model._model, vars(model.config)  # the network has no public name
    source = f"object:{kinds[0]}"
    if kinds[0] in ULTRALYTICS:
        module, metadata = ultralytics.network(module, texts["classes"], texts["prompt"])
        return LoadedModel(module, kinds[0], source, metadata)
    if kinds[0] in RFDETR:
        module, metadata = rfdetr.network(module)
        return LoadedModel(module, kinds[0], source, metadata)
    if any("FiftyOneTransformer" in kind or "ZeroShotTransformer" in kind for kind in kinds):
        name = str(config.get("name_or_path") or module.config._name_or_path)
        if texts.get("is_tower") and hugging_face.is_clip(module):
            metadata, tower = hugging_face.towers(module, name)
            return LoadedModel(module, kinds[0], source, metadata, tower)
        return LoadedModel(module, kinds[0], source, hugging_face.adapt(module, name, texts["classes"], texts["prompt"]))
    if kinds[0] not in (*CLIP, *TORCHVISION):
        gives, hint = REFUSED.get(kinds[0], (f"what FiftyOne's `{kinds[0]}` makes of it", NETWORK))
        raise ExportError(f"the model gives {gives}: camflow explains scores of classes", hint or NETWORK, code=2)
    metadata = metadata_of(config)
    if kinds[0] in CLIP and texts.get("is_tower"):
        module, tower = clip.towers(model)
        metadata |= {"classes": {}, "task": "embedding"}
        if kinds[0] == "TorchOpenClipModel":
            metadata["preprocess"] = steps_from_transforms(model._clip_preprocess)
        return LoadedModel(module, kinds[0], source, metadata, tower)
    if kinds[0] in CLIP:
        names = list(texts["classes"] or model.classes)
        prompt = texts["prompt"] or f"{config['text_prompt']} {{}}"
        module = clip.network(model, [prompt.replace("{}", name) for name in names])
        metadata["classes"] = {str(i): name for i, name in enumerate(names)}
        if kinds[0] == "TorchOpenClipModel":
            metadata["preprocess"] = steps_from_transforms(model._clip_preprocess)
    return LoadedModel(module, kinds[0], source, metadata)


def metadata_of(config: dict[str, Any]) -> Metadata:
    """Task, classes and preprocess steps of a zoo config dict. Nothing is downloaded."""
    processor = str(config.get("output_processor_cls"))
    task = next(
        (t for word, t in (("SemanticSegmenter", "segmentation"), ("Classifier", "classification")) if word in processor), None
    )
    task = task or ("embedding" if config.get("output_processor_cls") is None else None)
    metadata: Metadata = {"preprocess": steps_from_zoo_config(config), "classes": {}, **({"task": task} if task else {})}

    def labels_map(path: str) -> tuple[Any, Any]:
        # FiftyOne's own functions, because the path has placeholders for folders that only it knows
        import eta.core.learning as etal
        import fiftyone.core.utils as fou

        return etal.load_labels_map(fou.fill_patterns(path)), etal.get_class_labels

    # For masks FiftyOne's list of classes is sorted and lacks the background: only the mask targets follow the channels
    if config.get("mask_targets"):
        metadata["classes"] = {str(k): v for k, v in config["mask_targets"].items()}
    elif config.get("mask_targets_path"):
        metadata["classes"] = {str(k): v for k, v in labels_map(config["mask_targets_path"])[0].items()}
    else:
        names = config.get("classes") or (config["labels_string"].split(",") if config.get("labels_string") else None)
        if names is None and config.get("labels_path"):
            found, as_list = labels_map(config["labels_path"])
            names = as_list(found)
        metadata["classes"] = {str(i): c for i, c in enumerate(names or [])}
    return metadata
