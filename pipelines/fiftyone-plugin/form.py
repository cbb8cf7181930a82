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
    *("scorecam", "ablationcam", "fullgrad", "kpcacam", "fem", "shapleycam", "finercam", "randomcam"),
)
# Labels that can be targets, with those first that say most exactly which pixels count.
LABELS = (fo.Segmentation, fo.Detections, fo.Polylines, fo.Classification, fo.Classifications)
# Where those with several objects have them.
IN_LISTS = {fo.Detections: "detections", fo.Polylines: "polylines", fo.Classifications: "classifications"}
# What can be a target in a list.
MEMBERS = (fo.Detection, fo.Polyline, fo.Classification)
# What was counted of a dataset, a view and a path, and when.
COUNTED: dict[tuple[str, str, str | None], tuple[float, Counter[str | None]]] = {}
# Seconds for which that holds, and how much of it is kept.
HOLDS, MANY = 60.0, 100
# Names of labels that are listed.
MOST = 5
# The choice of a model that is not in the cache.
OTHER = "other"


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
    target = _target(ctx, inputs)
    if model:
        if needs_classes(ctx, target):
            _classes(ctx, inputs, model, target)
        methods = _methods(ctx, inputs)
        # FullGrad takes all layers of a model together.
        if methods != ["fullgrad"]:
            _layers(inputs, model)
        inputs.view("estimate", types.Notice(label=estimate.sentence(ctx, model, methods, num_images, num_classes(ctx, target))))
        _more(ctx, inputs)
    view = types.PromptView(label="Compute heatmaps (camflow)", submit_button_label="Compute")
    return types.Property(inputs, view=view)


def arguments(ctx: ExecutionContext) -> list[str]:
    """The arguments of `camflow` that say what was filled in, apart from the samples."""
    params = ctx.params
    # With `=`, no value is taken for a flag.
    made = ["annotate", "--format=json", f"--dataset={ctx.dataset.name}", f"--model={folders.model(model_path(params))}"]
    made += [f"--target={params['target']}", f"--method={','.join(params.get('methods') or METHODS[:1])}"]
    # One flag for each, in which no comma separates.
    made += ["--class=" + name.replace("\\", "\\\\").replace(",", "\\,") for name in params.get("classes") or ()]
    made += [f"--layers={layer}" for layer in params.get("layers") or ()]
    for flag, name in (("--field", "field"), ("--out", "out"), ("--device", "device")):
        if value := (params.get(name) or "").strip():
            made.append(f"{flag}={folders.out(value) if name == 'out' else value}")
    made += [f"--{name.replace('_', '-')}" for name in SWITCHES if params.get(name)]
    return made


def model_path(params: dict[str, Any]) -> str:
    """The model file that was chosen."""
    chosen = params.get("model")
    return str(Path(params.get("model_path") or "").expanduser()) if chosen in (None, OTHER) else chosen


def needs_classes(ctx: ExecutionContext, target: str | None) -> bool:
    """Whether classes have to be named: not where the model or each sample's label says which one it is."""
    if target in (None, "top"):
        return False
    name = target.partition(":")[2]
    field = ctx.dataset.get_field(name) if name else None
    return field is None or kind_of(field) != (fo.Classification, False)


def num_classes(ctx: ExecutionContext, target: str) -> int:
    """For how many classes a sample gets heatmaps at most."""
    if target.startswith("wrong"):
        # The predicted class, the true one and their difference.
        return 3
    if not needs_classes(ctx, target):
        return 1
    chosen = ctx.params.get("classes") or []
    path = path_of_names(ctx, target)
    return len(counted(ctx, path)) if "all" in chosen and path else len(chosen)


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


def _target(ctx: ExecutionContext, inputs: types.Object) -> str:
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
    choices = _choices(types.DropdownView(), [*fields, *own])
    default = choices.values()[0]
    description = "Which pixels count"
    inputs.enum("target", choices.values(), default=default, required=True, label="Target", description=description, view=choices)
    return str(ctx.params.get("target") or default)


def _classes(ctx: ExecutionContext, inputs: types.Object, model: models.Model, target: str) -> None:
    path = path_of_names(ctx, target)
    labels = counted(ctx, path) if path else Counter()
    # Pixels of the background are explained when asked for; what people look for comes first.
    named = sorted(model.numbered_classes.items(), key=lambda item: (-labels[item[1]], item[1] == "background"))
    # Of several classes with one name, the number says which is meant.
    count = Counter(model.classes)

    def label(number: str, name: str) -> str:
        text = name if count[name] == 1 else f"{name} ({number})"
        return f"{text}: {labels[name]:,} in `{target.partition(':')[2]}`" if labels[name] else text

    pairs = [(name if count[name] == 1 else number, label(number, name)) for number, name in named]
    choices = _choices(types.AutocompleteView(allow_user_input=True), [*pairs, ("all", "all")])
    inputs.list(
        "classes",
        types.String(),
        required=True,
        label="Classes",
        description="Names or numbers of the model's classes, or `all` that occur in the labels" + _strange(labels, model),
        view=choices,
    )


def _strange(labels: Counter[str | None], model: models.Model) -> str:
    """A word on the labels that are none of the model's classes."""
    strange = [(name, number) for name, number in labels.most_common() if name not in model.classes]
    if not strange:
        return ""
    listed = ", ".join(f"{shown(str(name))} ({number:,})" for name, number in strange[:MOST])
    return f". Not among the model's classes: {listed}{', ...' if len(strange) > MOST else ''}"


def _methods(ctx: ExecutionContext, inputs: types.Object) -> list[str]:
    choices = _choices(types.AutocompleteView(allow_user_input=False), [(name, name) for name in METHODS])
    default = list(METHODS[:1])
    inputs.list("methods", types.String(), default=default, label="Methods", view=choices)
    return ctx.params.get("methods") or default


def _layers(inputs: types.Object, model: models.Model) -> None:
    numbered = [(number, f"{number}: {path}") for number, path in model.numbered_layers.items()]
    others = [(path, path) for path in model.layers if path not in model.numbered_layers.values()]
    inputs.list(
        "layers",
        types.String(),
        default=model.default_layers,
        label="Layers",
        description="Numbers, ranges (1-4) or module paths; none is the model's own choice",
        view=_choices(types.AutocompleteView(allow_user_input=True), [*numbered, *others]),
    )


SWITCHES = {
    "fuse_layers": "One map of all layers",
    "eigen_smooth": "Smooth by the first principal component",
    "aug_smooth": "Smooth by six variants of the image (six times the work)",
    "replace": "Replace heatmaps of another model, class or target in the same fields",
    "overwrite": "Recompute up-to-date heatmaps",
}


def _more(ctx: ExecutionContext, inputs: types.Object) -> None:
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
        label="Names of the fields",
        description="A template with {class}, {method}, {layer} and {model}; empty: as camflow names them",
    )
    inputs.str("out", label="Folder for the files", description="Empty: camflow's folder for this dataset")
    if out := (ctx.params.get("out") or "").strip():
        try:
            folders.out(out)
        except folders.NotAllowedError as error:
            inputs.view("out_error", types.Error(label=str(error)))
            inputs.get_property("out").invalid = True
    for name, label in SWITCHES.items():
        inputs.bool(name, default=False, label=label)
