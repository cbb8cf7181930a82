"""The form of the operator: what can be asked of `camflow annotate`, offered as the dataset and the model have it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
from fiftyone.operators import types

from . import estimate, folders, models
from ._camflow.names import shown

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

# As `camflow annotate --help` lists them; a test compares.
METHODS = (
    *("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam", "gradcam-elementwise", "eigencam", "eigengradcam"),
    *("scorecam", "ablationcam", "fullgrad", "kpcacam", "fem", "shapleycam", "finercam", "segeigencam", "reciprocam"),
    *("cam", "smoothgradcam++", "sscam", "iscam", "groupcam", "refinecam"),
    *("attention-rollout", "grad-attention", "chefer", "legrad", "grad-eclip"),
    *("saliency", "smoothgrad", "integrated-gradients", "guided-backprop", "guided-gradcam", "occlusion", "rise", "randomcam"),
)
# Labels that can be targets, with those first that say most exactly which pixels count.
LABELS = (fo.Segmentation, fo.Detections, fo.Polylines, fo.Classification, fo.Classifications)
# Where those with several objects have them.
IN_LISTS = {fo.Detections: "detections", fo.Polylines: "polylines", fo.Classifications: "classifications"}
# What can be a target in a list.
MEMBERS = (fo.Detection, fo.Polyline, fo.Classification)
# Labels that say where classes are.
PLACES = (fo.Segmentation, fo.Detections, fo.Detection, fo.Polylines, fo.Polyline)
# What takes the place of objects and backgrounds, as `camflow annotate --help` lists it.
REPLACEMENTS = {"none": "no", "impute": "filled in from around", "mean": "the mean colour", "blur": "blurred"}
# What was counted of a dataset, a view and a path, and when.
COUNTED: dict[tuple[str, str, str | None], tuple[float, Counter[str | None]]] = {}
# Seconds for which that holds, and how much of it is kept.
HOLDS, MANY = 60.0, 100
# Names of labels that are listed.
MOST = 5
# The choice of a model that is not in the cache.
OTHER = "other"
# The target of texts that every image has a heatmap of.
TEXTS = "texts"


def build(ctx: ExecutionContext) -> types.Property:
    """The form for what is open and filled in so far."""
    inputs = types.Object()
    inputs.view_target(ctx, action_description="Compute heatmaps for")
    num_images = counted(ctx, None)[None]
    inputs.view(
        "num_images",
        types.Notice(label=f"{num_images:,} image{'' if num_images == 1 else 's'}; those that are up to date are passed over"),
    )
    model = _model(ctx, inputs)
    target = _target(ctx, inputs, model)
    if model:
        if model.takes_texts:
            _texts(inputs, target)
        if needs_classes(ctx, target):
            _classes(ctx, inputs, model, target)
        if is_detector(model) and has_boxes(ctx, target):
            inputs.bool("per_detection", default=False, label="A heatmap of each detection, not one of a class")
        methods = _methods(ctx, inputs, model)
        if not set(methods) <= estimate.WHOLE or not methods:
            _layers(inputs, model)
        inputs.view("estimate", types.Notice(label=estimate.sentence(ctx, model, methods, num_images, num_classes(ctx, target))))
        _more(ctx, inputs, target)
    view = types.PromptView(label="Compute heatmaps (camflow)", submit_button_label="Compute")
    return types.Property(inputs, view=view)


def arguments(ctx: ExecutionContext) -> list[str]:
    """The arguments of `camflow` that say what was filled in, apart from the samples."""
    params = ctx.params
    # With `=`, no value is taken for a flag.
    made = ["annotate", "--format=json", f"--dataset={ctx.dataset.name}", f"--model={folders.model(model_path(params))}"]
    if params["target"] != TEXTS:
        made.append(f"--target={params['target']}")
    if methods := params.get("methods"):
        made.append(f"--method={','.join(methods)}")
    # One flag for each, in which no comma separates.
    made += ["--class=" + name.replace("\\", "\\\\").replace(",", "\\,") for name in params.get("classes") or ()]
    made += [f"--text={text}" for text in params.get("texts") or ()]
    made += [f"--layers={layer}" for layer in params.get("layers") or ()]
    for name in ("field", "out", "device", "text_template", "attention_on", "counterfactuals", "predictions", "eval_key"):
        if value := (params.get(name) or "").strip():
            made.append(f"{_flag(name)}={folders.out(value) if name == 'out' else value}")
    made += [f"{_flag(name)}={params[name]}" for name in SLICES if params.get(name) is not None]
    made += [_flag(name) for name in ("per_detection", *SWITCHES) if params.get(name)]
    return made


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def model_path(params: dict[str, Any]) -> str:
    """The model file that was chosen."""
    chosen = params.get("model")
    return str(Path(params.get("model_path") or "").expanduser()) if chosen in (None, OTHER) else chosen


def needs_classes(ctx: ExecutionContext, target: str | None) -> bool:
    """Whether classes are named: not where the model or each sample's label says which one it is, or where texts are explained."""
    if target in (None, "top", TEXTS):
        return False
    name = target.partition(":")[2]
    field = ctx.dataset.get_field(name) if name else None
    return field is None or kind_of(field) != (fo.Classification, False)


def num_classes(ctx: ExecutionContext, target: str) -> int:
    """For how many classes or texts a sample gets heatmaps at most."""
    if target == TEXTS:
        return len(ctx.params.get("texts") or [])
    if target.startswith("wrong"):
        # The predicted class, the true one and their difference.
        return 3
    if not needs_classes(ctx, target):
        return 1
    chosen = ctx.params.get("classes") or []
    path = path_of_names(ctx, target)
    return len(counted(ctx, path)) if "all" in chosen and path else len(chosen)


def is_detector(model: models.Model) -> bool:
    """Whether it has a default of its own: no method and no layers are then said."""
    return model.task == "detection"


def has_boxes(ctx: ExecutionContext, target: str) -> bool:
    """Whether each label of a target has a box of its own."""
    field = ctx.dataset.get_field(target.partition(":")[2]) if ":" in target else None
    return field is not None and kind_of(field)[0] in (fo.Detections, fo.Detection, fo.Polylines, fo.Polyline)


def path_of_names(ctx: ExecutionContext, target: str) -> str | None:
    """Where the names of a target's labels stand; None where they are no labels with names."""
    name = target.partition(":")[2]
    field = ctx.dataset.get_field(name) if name else None
    kind, _ = kind_of(field) if field else (None, False)
    if kind in (None, fo.Segmentation):
        return None
    return f"{name}.{IN_LISTS[kind]}.label" if kind in IN_LISTS else f"{name}.label"


def counted(ctx: ExecutionContext, path: str | None) -> Counter[str | None]:
    """How many labels of what is open have each name; without a path, under None, how many samples there are.

    A form is made anew with every key that is typed: what was counted holds for a minute.
    """
    view = ctx.target_view()
    key = (ctx.dataset.name, json.dumps(view._serialize(), default=str) if isinstance(view, fo.DatasetView) else "", path)
    made, found = COUNTED.get(key, (0.0, Counter()))
    if not made or time.monotonic() - made > HOLDS:
        found = Counter(view.count_values(path)) if path else Counter({None: view.count()})
        if len(COUNTED) > MANY:
            COUNTED.clear()
        COUNTED[key] = (time.monotonic(), found)
    return found


def label_fields(schema: dict[str, fo.Field], within: str = "") -> Iterator[tuple[str, fo.Field]]:
    """The fields of labels, with their paths, also those in other fields."""
    for name, field in schema.items():
        kind, is_list = kind_of(field)
        if kind and issubclass(kind, fo.Label):
            yield within + name, field
        elif kind and not is_list:
            yield from label_fields(field.get_field_schema(), f"{within}{name}.")


def kind_of(field: fo.Field) -> tuple[type | None, bool]:
    """The class of the documents that a field holds, and whether it holds a list of them."""
    is_list = isinstance(field, fo.ListField)
    inner = field.field if is_list else field
    return (inner.document_type, is_list) if isinstance(inner, fo.EmbeddedDocumentField) else (None, is_list)


def _choices(view: types.Choices, pairs: Iterable[tuple[str, str]]) -> types.Choices:
    for value, label in pairs:
        view.add_choice(value, label=label)
    return view


def _model(ctx: ExecutionContext, inputs: types.Object) -> models.Model | None:
    found = models.exported()
    pairs = [(str(path), shown(path.stem)) for path in found]
    choices = _choices(types.DropdownView(), [*pairs, (OTHER, "another file ...")])
    default = choices.values()[0]
    inputs.enum("model", choices.values(), default=default, required=True, label="Model", view=choices)
    chosen, asked = ctx.params.get("model") or default, "model"
    if chosen == OTHER:
        asked = "model_path"
        if not found:
            text = (
                f"No exported model in {folders.cache_folder()}. In a terminal: `camflow export {models.DEFAULT}` "
                "makes one; `camflow export --help` says of which models."
            )
            inputs.view("no_models", types.Notice(label=text))
        inputs.str("model_path", required=True, label="Model file", description="An exported model, FILE.pt2")
        chosen = ctx.params.get("model_path")
        if not chosen:
            return None
    try:
        return models.Model.read(folders.model(chosen))
    except (models.NoModelError, folders.NotAllowedError) as error:
        inputs.view("model_error", types.Error(label=str(error)))
        # A form that is not valid cannot be sent.
        inputs.get_property(asked).invalid = True
        return None


def _target(ctx: ExecutionContext, inputs: types.Object, model: models.Model | None) -> str:
    found = [(name, *kind_of(field)) for name, field in label_fields(ctx.dataset.get_field_schema())]
    fields = [
        (f"labels:{name}", f"{'list of ' if is_list else ''}{kind.__name__} labels `{name}`")
        for wanted in (*LABELS, *MEMBERS)
        for name, kind, is_list in found
        if kind is wanted and (kind in LABELS or is_list)
    ]
    mistakes = [
        (f"wrong:{name}", f"what a classifier gets wrong by `{name}`")
        for name, kind, is_list in found
        if kind is fo.Classification and not is_list
    ]
    own = [
        *mistakes,
        ("predicted", "where the model itself predicts the classes"),
        ("top", "the class that the model puts first"),
    ]
    texts = [(TEXTS, "texts, each in every image")] if model and model.takes_texts else []
    choices = _choices(types.DropdownView(), [*texts, *fields, *own])
    default = choices.values()[0]
    description = "What to explain: the labels that say where a class is, or what the model itself gives"
    inputs.enum("target", choices.values(), default=default, required=True, label="Target", description=description, view=choices)
    return str(ctx.params.get("target") or default)


def _texts(inputs: types.Object, target: str) -> None:
    inputs.list(
        "texts",
        types.String(),
        required=target == TEXTS,
        label="Texts",
        description="What the images are compared with, such as `a red car`"
        + ("" if target == TEXTS else "; of a label field: labels, word for word"),
        view=_choices(types.AutocompleteView(allow_user_input=True), []),
    )
    if target != TEXTS:
        inputs.str(
            "text_template",
            label="Text of a class",
            description="A sentence in which {} stands for its name, such as `a photo of a {}`",
        )


def _classes(ctx: ExecutionContext, inputs: types.Object, model: models.Model, target: str) -> None:
    path = path_of_names(ctx, target)
    labels = counted(ctx, path) if path else Counter()
    # Pixels of the background are explained when asked for; what people look for comes first.
    known = {str(name): str(name) for name in labels if name is not None} if model.takes_texts else model.numbered_classes
    named = sorted(known.items(), key=lambda item: (-labels[item[1]], item[1] == "background"))
    # Of several classes with one name, the number says which is meant.
    count = Counter(known.values())

    def label(number: str, name: str) -> str:
        text = name if count[name] == 1 else f"{name} ({number})"
        return f"{text}: {labels[name]:,} in `{target.partition(':')[2]}`" if labels[name] else text

    pairs = [(name if count[name] == 1 else number, label(number, name)) for number, name in named]
    choices = _choices(types.AutocompleteView(allow_user_input=True), [*pairs, ("all", "all")])
    inputs.list(
        "classes",
        types.String(),
        # Those of a label field are found by themselves where texts are made of them.
        required=not model.takes_texts,
        label="Classes",
        description="Names of labels, or `all`: then each has a field of its own"
        if model.takes_texts
        else "Names or numbers of the model's classes, or `all` that occur in the labels" + _strange(labels, model),
        view=choices,
    )


def _strange(labels: Counter[str | None], model: models.Model) -> str:
    """A word on the labels that are none of the model's classes."""
    strange = [(name, number) for name, number in labels.most_common() if name not in model.classes]
    if not strange:
        return ""
    listed = ", ".join(f"{shown(str(name))} ({number:,})" for name, number in strange[:MOST])
    return f". Not among the model's classes: {listed}{', ...' if len(strange) > MOST else ''}"


def _methods(ctx: ExecutionContext, inputs: types.Object, model: models.Model) -> list[str]:
    choices = _choices(types.AutocompleteView(allow_user_input=False), [(name, name) for name in METHODS])
    default, description = list(METHODS[:1]), None
    if is_detector(model):
        default, description = [], "None, and no layers, is LayerCAM over all levels that the detector's head reads, as one map"
    inputs.list("methods", types.String(), default=default, label="Methods", description=description, view=choices)
    return ctx.params.get("methods") or default


def _layers(inputs: types.Object, model: models.Model) -> None:
    numbered = [(number, f"{number}: {path}") for number, path in model.numbered_layers.items()]
    others = [(path, path) for path in model.layers if path not in model.numbered_layers.values()]
    inputs.list(
        "layers",
        types.String(),
        default=[] if is_detector(model) else model.default_layers,
        label="Layers",
        description="Numbers, ranges (1-4) or module paths; none is the model's own choice",
        view=_choices(types.AutocompleteView(allow_user_input=True), [*numbered, *others]),
    )


# Of images that are larger than a slice.
SLICES = ("slice_height", "slice_width", "overlap_height_ratio", "overlap_width_ratio")
SWITCHES = {
    "fuse_layers": "One map of all layers",
    "eigen_smooth": "Smooth by the first principal component",
    "aug_smooth": "Smooth by six variants of the image (six times the work)",
    "replace": "Replace heatmaps of another model, class or target in the same fields",
    "overwrite": "Recompute up-to-date heatmaps",
}


def _more(ctx: ExecutionContext, inputs: types.Object, target: str) -> None:
    inputs.bool("more", default=False, label="More settings", view=types.SwitchView())
    if not ctx.params.get("more"):
        return
    inputs.str(
        "device",
        default="auto",
        label="Where to compute",
        description="`auto` (a CUDA device where there is one), `cpu`, `cuda`, `cuda:1`; several with commas",
    )
    inputs.str(
        "field",
        label="Field name template",
        description="With {class}, {method}, {layer} and {model}; empty: as camflow names them",
    )
    _measures(ctx, inputs)
    inputs.str(
        "predictions",
        label="Field for predictions",
        description="Also store there what the model predicts for each sample, for the App and FiftyOne's evaluations; empty: do not",
    )
    # Of detections it says what was found of each, of a classifier which classes are true.
    evaluations = ctx.dataset.list_evaluations() if ctx.params.get("per_detection") or target.startswith("wrong") else []
    if evaluations:
        view = _choices(types.DropdownView(), [(key, key) for key in evaluations])
        inputs.enum("eval_key", evaluations, label="By an evaluation", description="True and false are what it found", view=view)
    inputs.str("out", label="Folder for the files", description="Empty: camflow's folder for this dataset")
    if out := (ctx.params.get("out") or "").strip():
        try:
            folders.out(out)
        except folders.NotAllowedError as error:
            inputs.view("out_error", types.Error(label=str(error)))
            inputs.get_property("out").invalid = True
    larger = "Images that are larger go through the model slice by slice, at their own resolution"
    inputs.int("slice_height", min=1, label="Rows of a slice", description=larger)
    inputs.int("slice_width", min=1, label="Columns of a slice")
    inputs.float("overlap_height_ratio", min=0, max=0.9, label="Part of its height that a slice shares with the next one")
    inputs.float("overlap_width_ratio", min=0, max=0.9, label="Part of its width that a slice shares with the next one")
    for name, label in SWITCHES.items():
        inputs.bool(name, default=False, label=label)


def _measures(ctx: ExecutionContext, inputs: types.Object) -> None:
    inputs.enum(
        "counterfactuals",
        list(REPLACEMENTS),
        default="none",
        label="Does it matter?",
        description="Also the confidence without the object, without its background, and without the most attended region outside of it",
        view=_choices(types.DropdownView(), REPLACEMENTS.items()),
    )
    found = [(name, *kind_of(field)) for name, field in label_fields(ctx.dataset.get_field_schema())]
    fields = [name for name, kind, is_list in found if kind in PLACES and not is_list]
    if fields:
        inputs.enum(
            "attention_on",
            fields,
            label="What else heatmaps lie on",
            description="Also how much of each lies on every class of this field",
            view=_choices(types.DropdownView(), [(name, name) for name in fields]),
        )
