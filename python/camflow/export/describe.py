"""camflow.json: what the archive says of its model."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .evidence import telling
from .layers import Layer, Shapes, Tokens, feeding, find_layers, is_tokens, number_layers, output_keys, scoring
from .loaders import LoadedModel
from .messages import ExportError, say
from .preprocess import checked_steps, normalize_step
from .reasons import say_gradient_cuts, without_inference_mode
from .windows import windowed

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1  # of camflow.json; the reader refuses what it does not know
WITHOUT_CLASSES = ("regression", "embedding")  # tasks whose numbers are no scores of classes


def overlay_layouts(layers: Iterable[Layer], layouts: dict[str, Layer], shapes: Shapes) -> list[Layer]:
    """Layers with what the command line says about their layout; such as it names are layers even if they did not look it.

    Raises:
        ExportError: a path is no module that returns one tensor.
    """
    by_path = {layer["path"]: layer for layer in layers}
    for path, said in layouts.items():
        if not shapes.get(path):
            near = difflib.get_close_matches(path, [p for p, shape in shapes.items() if shape], n=4)
            raise ExportError(
                f"the model has no module `{path}` that returns one tensor",
                f"the nearest are {', '.join(f'`{p}`' for p in near)}" if near else None,
                code=2,
            )
        kept = {k: v for k, v in by_path.get(path, {"path": path, "type": None, "shape": shapes[path]}).items() if k != "tokens"}
        by_path[path] = {**kept, **said}
    return list(by_path.values())


def describe(
    loaded: LoadedModel,
    shapes: Shapes,
    image: Tensor,
    output: Any,
    primary: str | int | None = None,
    layouts: dict[str, Layer] | None = None,
) -> tuple[dict[str, Any], set[str]]:
    """camflow.json but for what export and verification add, and the paths of the layers that may have a number.

    `output` is the model's for `image` [N, C, H, W].

    Raises:
        ExportError: the output cannot be explained, or what is known of the model does not fit it.
    """
    import torch

    example = list(image.shape)
    given = loaded.metadata
    keys, leaves = output_keys(output)
    wanted = primary if primary is not None else given.get("primary_output")
    if wanted is None:
        index = next((keys.index(k) for k in ("out", "logits") if k in keys), 0)
    elif wanted in keys:
        index = keys.index(wanted)
    elif str(wanted).isdigit() and int(wanted) < len(keys):
        index = int(wanted)
    else:
        raise ExportError(f"the model has no output `{wanted}`", f"its outputs are {', '.join(f'`{k}`' for k in keys)}", code=2)
    scores = leaves[index]
    if not isinstance(scores, torch.Tensor) or (scores.ndim == 0 and example[0] > 1):
        what = f"has shape {list(scores.shape)}" if isinstance(scores, torch.Tensor) else f"is a {type(scores).__name__}"
        raise ExportError(
            f"output {f'`{keys[index]}` ' if keys[index] else ''}{what}, and is no tensor [N, classes, ...]",
            "choose another with `--primary-output`, or wrap the model",
        )
    # Of one class, some models leave out the dimension of classes: [N], or [N, H, W] of the image's size.
    task = given.get("task")
    is_map = scores.ndim == 3 and (task in ("segmentation", "regression") or list(scores.shape[1:]) == example[2:])
    if task == "embedding" and scores.ndim != 2:
        raise ExportError(
            f"the output has shape {list(scores.shape)}, and an embedding is [N, D]: one list of numbers for each image",
            "take the mean over its places or tokens, or the class token, in a function: `file.py:function`",
            code=2,
        )
    num_classes = 1 if scores.ndim < 2 or is_map else scores.shape[1]
    if not torch.isfinite(scores).all():
        raise ExportError(
            "the model's output has infinities or NaN",
            "random weights? `--warm-batchnorm 4` gives its batch norms sane statistics",
        )
    classes = given.get("classes") or {}
    if task == "embedding" and classes:
        say("note: the names of classes are left out, as an embedding has none")
        classes = {}
    _check_dimensions(list(scores.shape), is_map, task, len(classes))
    if num_classes == 1 and len(classes) == 2 and task not in WITHOUT_CLASSES:
        negative, positive = (name for _, name in sorted(classes.items(), key=lambda entry: int(entry[0])))
        say(
            f"the output has one channel: it stands for `{positive}` where a sigmoid of it is above 0.5, and for `{negative}` elsewhere"
        )
    elif len(classes) != num_classes and classes:
        if given.get("all_classes"):
            raise ExportError(
                f"`--classes` gives {len(classes)} names for the {num_classes} channels of the output",
                "name each, in the order of the channels",
                code=2,
            )
        if not given.get("unnamed_channels"):
            say(f"warning: {len(classes)} class names for {num_classes} channels of the output")
    elif beyond := [channel for channel in classes if int(channel) >= num_classes]:
        raise ExportError(
            f"the names of classes are for channel {beyond[0]}, too, and the output has {num_classes} channels, from 0",
            "name each, in the order of the channels",
            code=2,
        )
    layers, tokens = find_layers(loaded.module, shapes, example)
    found, tokens = {layer["path"]: layer for layer in layers}, given.get("tokens", tokens)
    if "layers" in given:  # paths, or entries that say more than was found, such as the layout
        wanted = [{"path": layer} if isinstance(layer, str) else layer for layer in given["layers"]]
        layers = [{**found.get(layer["path"], {"type": None, "shape": shapes.get(layer["path"])}), **layer} for layer in wanted]
        if any("layout" not in layer for layer in layers):
            raise ExportError(
                f"the layout of layers {[la['path'] for la in layers if 'layout' not in la]} is not plain from their shape",
                "say it in `camflow_metadata`: {'path': ..., 'layout': 'nchw', 'nhwc', 'tokens' or 'tokens_first'}",
                code=2,
            )
    layers = overlay_layouts(layers, layouts or {}, shapes)
    with without_inference_mode():
        fed = feeding(loaded.module, image, lambda output: output_keys(output)[1][index])
    counted = [layer for layer in layers if fed is None or layer["path"] in fed]
    if layers and not counted:
        say_gradient_cuts(loaded.module, image)
    if scores.ndim == 4:
        heads = scoring(loaded.module, shapes, counted, num_classes)
        counted = [layer for layer in counted if layer["path"] not in heads] or counted
    order = [path for path in shapes if path]
    told = telling(loaded.module, image, layers, tokens)
    aliases, default = number_layers(counted or layers, order)
    because = "the last stage of the network; the scores depend on it, and it changes with the image, where the image does"
    if "default_layers" in given or "aliases" in given:
        because = "what `camflow_metadata` says"
    if "aliases" in given:
        aliases = {str(k): v for k, v in given["aliases"].items()}
        default = list(aliases)[-1:]
    elif aliases and told.intersection(layer["path"] for layer in counted or layers) and aliases[default[0]] not in told:
        usual, counted = aliases[default[0]], [layer for layer in counted or layers if layer["path"] in told]
        aliases, default = number_layers(counted, order)
        because = f"the last stage that changes where the image does; `{usual}`, which its name suggests, does not"
        say(
            f"note: `{usual}` does not lie over the image, as a change of the image shows, and is not the default layer: "
            f"`{aliases[default[0]]}` is"
        )
    stated = {layer["path"] for layer in layers} if "layers" in given else set(layouts or {})
    layers, orders = _in_windows(loaded.module, example, shapes, layers, tokens, told, stated | {*aliases.values()})
    channels, steps = example[1], given.get("preprocess", [])
    steps = steps if steps and steps[-1]["op"] == "normalize" else [*steps, normalize_step([0.0] * channels, [1.0] * channels)]
    steps = checked_steps(steps, channels)
    task = task or ("segmentation" if is_map or scores.ndim == 4 else "classification" if scores.ndim < 3 else "other")
    return {
        "camflow": FORMAT,
        "name": loaded.name,
        "source": loaded.source,
        "weights": given.get("weights"),
        "seed": given.get("seed"),
        "torch": torch.__version__.split("+")[0],
        "task": task,
        "input": {"layout": "NCHW", "dtype": "float32", "channels": channels, "example": list(example)},
        "preprocess": steps,
        "assumed": [],
        "outputs": keys,
        "primary_output": index,
        "detections": given.get("detections"),
        "texts": given.get("texts"),
        "classes": classes,
        "aliases": aliases,
        "default_layers": [str(k) for k in given.get("default_layers", default)],
        "default_because": because,
        "layers": layers,
        "tokens": tokens,
        "orders": orders,
    }, {layer["path"] for layer in counted}


def _in_windows(
    module: nn.Module,
    example: Sequence[int],
    shapes: Shapes,
    layers: list[Layer],
    tokens: Tokens | None,
    told: Collection[str],
    stated: Collection[str],
) -> tuple[list[Layer], list[list[int]]]:
    """([layer], [order]): with the layers whose tokens are in windows, and without those whose tokens lie elsewhere than it seemed.

    `told` are those that lie as it seems, `stated` those that are kept as they are.
    """
    batch = example[0]
    scattered = [layer["path"] for layer in layers if is_tokens(layer) and layer["path"] not in {*told, *stated}]
    if not scattered and not any(shape and shape[0] > batch and shape[0] % batch == 0 for shape in shapes.values()):
        return layers, []
    found, orders = windowed(module, example, shapes, [layer for layer in layers if layer["path"] in told], tokens)
    by_path = {layer["path"]: layer for layer in layers if layer["path"] not in scattered}
    by_path |= {layer["path"]: layer for layer in found if layer["path"] not in stated and layer["path"] not in told}
    ends = {path: at for at, path in enumerate(shapes)}
    return sorted(by_path.values(), key=lambda layer: ends.get(layer["path"], len(ends))), orders


def _check_dimensions(shape: list[int], is_map: bool, task: str | None, num_names: int) -> None:
    """Raises `ExportError` for an output whose second dimension is not that of the classes, whatever else is said of it."""
    if task in ("classification", "segmentation") and (len(shape) > 4 or (len(shape) == 3 and not is_map)):
        raise ExportError(
            f"the output has shape {shape}, and a model for {task} gives [N, classes] or [N, classes, H, W]",
            "wrap the model, in a module that reshapes its output",
        )
    if task == "segmentation" and (len(shape) < 3 or not (is_map or len(shape) == 4)):
        raise ExportError(
            f"the output has shape {shape}, one score per class and none per pixel, which is no segmentation",
            "leave out `--task`, or choose another output with `--output`",
            code=2,
        )
    if task == "classification" and len(shape) == 4 and max(shape[2:]) > 1:
        raise ExportError(
            f"the output has shape {shape}, scores for places of the image, and a model for classification gives [N, classes]",
            "say `--task segmentation`, or take the mean over the places in a function: `file.py:function`",
            code=2,
        )
    of_names = {num_names, 1 if num_names == 2 else num_names}  # two names may share a channel
    if task != "detection" and len(shape) == 4 and num_names and shape[3] in of_names and shape[1] not in of_names:
        raise ExportError(
            f"the output has shape {shape}, with the classes last: {num_names} of them are named",
            "wrap the model, in a module that gives `output.permute(0, 3, 1, 2)`",
        )
