"""Models of FiftyOne's zoo, by name."""

from __future__ import annotations

import functools
import importlib.util
import json
import unittest.mock
from pathlib import Path
from typing import Any

from ..messages import ExportError, unknown
from ..transforms import attribute, steps_from_zoo_config
from . import LoadedModel, Metadata, of_classes, without_weights


def manifest() -> dict[str, dict[str, Any]]:
    """Name -> entry of FiftyOne's zoo of torch models, read without importing FiftyOne (which takes seconds)."""
    spec = importlib.util.find_spec("fiftyone")
    path = Path(spec.origin).parent / "zoo" / "models" / "manifest-torch.json" if spec and spec.origin else None
    if path is None or not path.is_file():
        return {}
    entries = json.loads(path.read_text())["models"]
    return {e["base_name"] + (f"@{e['version']}" if e.get("version") else ""): e for e in entries}


def load(name: str, weights: str, num_classes: int | None = None) -> LoadedModel:
    """The model `name`, with its published weights where `weights` is "default", and random ones otherwise.

    Raises:
        ExportError: there is none of that name, FiftyOne is not installed, or the model has preprocessing or outputs of its own.
    """
    entries = manifest()
    if not entries:
        raise ExportError(
            "FiftyOne is not installed in this Python",
            "install it with `pip install fiftyone`, or name a torchvision or timm model",
        )
    if name not in entries:
        raise unknown(name, entries, "FiftyOne's zoo")
    deployment = entries[name]["default_deployment_config_dict"]
    config, kind = deployment["config"], deployment["type"].rpartition(".")[2]
    if kind not in ("TorchvisionImageModel", "TorchImageModel") or ".detection." in str(config.get("entrypoint_fcn")):
        raise ExportError(
            f"`{name}` is a {kind} with preprocessing or outputs of its own, which camflow cannot read",
            "wrap its network in a function that returns a module from [N, 3, H, W] to scores: `file.py:function`",
            code=2,
        )
    metadata = metadata_of(config)
    if weights == "default":
        import fiftyone as fo
        import fiftyone.zoo as foz
        from torchvision.models import _api

        # FiftyOne (1.22) puts the checkpoint into its own folder and then misses it: torchvision looks into torch's cache
        # and downloads the file again. Point torchvision at FiftyOne's folder meanwhile.
        from_zoo = functools.partial(_api.load_state_dict_from_url, model_dir=fo.config.model_zoo_dir)
        with unittest.mock.patch.object(_api, "load_state_dict_from_url", from_zoo):
            # `_model` is the nn.Module inside FiftyOne's wrapper; it has no public name
            module = foz.load_zoo_model(name, device="cpu", cache=False, use_half_precision=False)._model
    else:
        entrypoint = config["entrypoint_fcn"]
        if not entrypoint.startswith("torchvision."):
            raise ExportError(f"`{name}` cannot be built without its published weights", "leave `--weights` at `default`", code=2)
        arguments = {k: v for k, v in (config.get("entrypoint_args") or {}).items() if k != "weights"}
        module = without_weights(attribute(entrypoint), **{**arguments, **of_classes(num_classes)})
    return LoadedModel(module, name, f"fiftyone:{name}", metadata)


def metadata_of(config: dict[str, Any]) -> Metadata:
    """Task, classes and preprocess steps of a zoo config dict. Nothing is downloaded."""
    processor = str(config.get("output_processor_cls"))
    task = next(
        (t for word, t in (("SemanticSegmenter", "segmentation"), ("Classifier", "classification")) if word in processor), None
    )
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
