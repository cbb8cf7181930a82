"""Models of FiftyOne's zoo, torchvision and timm, by name."""

import dataclasses
import functools
import importlib.util
import inspect
import json
import unittest.mock
from pathlib import Path

from export_messages import ExportError, say, unknown
from export_preprocess import attribute, steps_from_transforms, steps_from_zoo_config


@dataclasses.dataclass
class LoadedModel:
    """A model on the CPU in eval mode, its name, where it comes from, and what is known about it (METADATA_KEYS)."""

    module: object
    name: str
    source: str
    metadata: dict


def torchvision_names():
    import torchvision

    return torchvision.models.list_models()


def timm_library():
    try:
        import timm
    except ImportError:
        raise ExportError("timm is not installed in this Python", "install it with `pip install timm`") from None
    return timm


def zoo_manifest():
    """name -> entry of FiftyOne's zoo of torch models, read without importing FiftyOne (which takes seconds)."""
    spec = importlib.util.find_spec("fiftyone")
    path = spec and spec.origin and Path(spec.origin).parent / "zoo" / "models" / "manifest-torch.json"
    if not path or not path.is_file():
        return {}
    entries = json.loads(path.read_text())["models"]
    return {e["base_name"] + (f"@{e['version']}" if e.get("version") else ""): e for e in entries}


def find_library(name):
    """Which library an unprefixed name belongs to. torchvision goes before timm, as in FiftyOne's own zoo."""
    tv, zoo = torchvision_names(), zoo_manifest()
    try:
        timm = timm_library()
        in_timm, timm_names = timm.is_model(name), timm.list_models()
    except ExportError:
        in_timm, timm_names = False, []
    if name in zoo:
        return "fiftyone"
    if name in tv:
        if in_timm:
            say(f"`{name}` is in torchvision and in timm: taking torchvision's (`timm:{name}` for the other)")
        return "torchvision"
    if in_timm:
        return "timm"
    raise unknown(name, [*zoo, *tv, *timm_names])


def _without_weights(build, **kwargs):
    """Call a torchvision-like builder so that it downloads nothing (segmentation models fetch a backbone otherwise)."""
    accepted = inspect.signature(build).parameters
    for key in ("weights", "weights_backbone"):
        if key in accepted:
            kwargs[key] = None
    return build(**kwargs)


def _of_classes(count):
    return {"num_classes": count} if count else {}


def load_torchvision(name, weights, num_classes=None):
    import torchvision.models as tvm

    if name not in torchvision_names():
        raise unknown(name, torchvision_names(), "torchvision")
    build = tvm.get_model_builder(name)
    kind = build.__module__.removeprefix("torchvision.models.").split(".")[0]
    if kind in ("detection", "quantization", "video", "optical_flow"):
        raise ExportError(f"`{name}` is a {kind} model: camflow explains models from one image tensor to class scores",
                          "wrap the part that you want to explain in a function: `file.py:function`", code=2)
    published = tvm.get_model_weights(name).DEFAULT
    module = tvm.get_model(name, weights=published) if weights == "default" else _without_weights(build, **_of_classes(num_classes))
    categories = published.meta.get("categories", [])
    metadata = {"preprocess": steps_from_transforms(published.transforms()), "task": "segmentation" if kind == "segmentation" else "classification",
                "classes": {str(i): "background" if c == "__background__" else c for i, c in enumerate(categories)}}
    return LoadedModel(module, name, f"torchvision:{name}", metadata)


def load_timm(name, weights, num_classes=None):
    timm = timm_library()
    if not timm.is_model(name):
        raise unknown(name, timm.list_models(), "timm")
    module = timm.create_model(name, pretrained=weights == "default", **_of_classes(num_classes))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module), is_training=False)
    subset, classes = timm.data.infer_imagenet_subset(module), {}
    if subset:
        info = timm.data.ImageNetInfo(subset)
        classes = {str(i): info.index_to_description(i) for i in range(info.num_classes())}
    return LoadedModel(module, name, f"timm:{name}", {"preprocess": steps_from_transforms(transform), "task": "classification", "classes": classes})


def load_zoo(name, weights, num_classes=None):
    manifest = zoo_manifest()
    if not manifest:
        raise ExportError("FiftyOne is not installed in this Python", "install it with `pip install fiftyone`, or name a torchvision or timm model")
    if name not in manifest:
        raise unknown(name, manifest, "FiftyOne's zoo")
    deployment = manifest[name]["default_deployment_config_dict"]
    config, kind = deployment["config"], deployment["type"].rpartition(".")[2]
    if kind not in ("TorchvisionImageModel", "TorchImageModel") or ".detection." in str(config.get("entrypoint_fcn")):
        raise ExportError(f"`{name}` is a {kind} with preprocessing or outputs of its own, which camflow cannot read",
                          "wrap its network in a function that returns a module from [N, 3, H, W] to scores: `file.py:function`", code=2)
    metadata = zoo_metadata(config)
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
        module = _without_weights(attribute(entrypoint), **{**arguments, **_of_classes(num_classes)})
    return LoadedModel(module, name, f"fiftyone:{name}", metadata)


def zoo_metadata(config):
    """Task, classes and preprocess steps of a zoo config dict. Nothing is downloaded."""
    processor = str(config.get("output_processor_cls"))
    task = next((t for word, t in (("SemanticSegmenter", "segmentation"), ("Classifier", "classification")) if word in processor), None)
    metadata = {"preprocess": steps_from_zoo_config(config), "classes": {}, **({"task": task} if task else {})}

    def labels_map(path):
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
