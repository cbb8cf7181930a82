"""What the heatmaps of a view measure, asked of the database as FiftyOne's aggregations: no sample is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass

import fiftyone as fo
import numpy as np
from fiftyone import ViewField
from fiftyone.core.stages import ViewStage

# Attributes that every heatmap label of camflow's has.
MARKS = ("fingerprint", "layer", "method")
# How the comment begins by which MongoDB, and the App's view bar, tell what a stage of ours is.
COMMENT = "camflow: "
# Bars of a histogram.
BARS = 32
# The database counts in finer bins, from which quantiles follow to 1/1024 of the range. FiftyOne's own collect all values in
# one document, which may have 16 MiB.
BINS = 1024
# Of a field whose heatmaps are of many classes (`--target top`), so many are shown one by one.
MAX_CLASSES = 6
# Stands among the measures for what heatmaps lie on (`--attention-on`), and is the attribute that says it.
ATTENTION = "attention"
# Stands among the measures for what confidences become where something is replaced (`--counterfactuals`); the attributes that say it.
COUNTERFACTUALS = "counterfactuals"
CONFIDENCES = ("confidence", "confidence_without_object", "confidence_without_background", "confidence_without_attended")
RELIANCE = "context_reliance"
# As camflow has it: where both replacements cost less together, there is nothing to share out.
LEAST_COST = 0.01
# Stands among the measures for what an evaluation found of detections (`--per-detection --eval-key`), and is the attribute that says it.
OUTCOME = "outcome"
# What is wrong, and what FiftyOne calls it.
WRONG = {"false positives": "fp", "missed objects": "fn"}
RIGHT = "tp"
# Labelled classes that are shown, those of most heatmaps first.
MAX_LABELS = 16
# The stages that views of ours add.
MADE = (
    ("Match",),
    ("Match", "SortBy", "Limit"),
    ("Match", "SortBy", "FilterLabels"),
    ("ToPatches", "SetField", "Match", "SortBy"),
)
# Where the box and its whiskers are.
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Series:
    """The heatmaps of one field, or of one class in it."""

    field: str
    target_class: str | None = None

    @property
    def label(self) -> str:
        """Its name in plots."""
        return self.field if self.target_class is None else f"{self.field}: {self.target_class}"

    @property
    def condition(self) -> fo.ViewExpression | None:
        """What the samples meet that have one of these heatmaps, where the field alone does not tell."""
        if self.target_class is None:
            return None
        return ViewField(f"{self.field}.target_class") == self.target_class

    def of(self, view: fo.DatasetView) -> fo.DatasetView:
        """The samples that have one of these heatmaps."""
        return view if self.condition is None else view.match(self.condition)


@dataclass(frozen=True)
class Distribution:
    """How a measure is distributed over a series."""

    series: Series
    # One more edge than counts; the last bin includes both of its edges.
    edges: list[float]
    counts: list[int]
    # By QUANTILES; none of a measure that is only true or false.
    quantiles: list[float] | None

    @property
    def size(self) -> int:
        """How many heatmaps there are."""
        return sum(self.counts)


@dataclass(frozen=True)
class Attention:
    """Which labelled classes the heatmaps of each series lie on."""

    series: list[Series]
    # None is what has no class.
    labels: list[str | None]
    # By series and label, over the heatmaps in whose images the class is: how many, the mean share of the energy and of the area.
    counts: list[list[int]]
    shares: list[list[float]]
    areas: list[list[float]]
    # Series that are left out.
    num_hidden: int


@dataclass(frozen=True)
class Confidences:
    """What the confidences of each series become where something is replaced, those first that lean on context most."""

    series: list[Series]
    # By series: of how many heatmaps they are the means, in the order of CONFIDENCES, and the reliance on context of these means.
    counts: list[int]
    means: list[list[float | None]]
    reliances: list[float | None]
    # Series that are left out.
    num_hidden: int


@dataclass(frozen=True)
class Outcomes:
    """What an evaluation found of the detections that have heatmaps of their own, those fields first in which most is wrong."""

    series: list[Series]
    # By series, how many are right.
    rights: list[int]
    # By series and kind of WRONG: how many, their mean confidence and the mean share of the heatmap in its box; None without any.
    counts: list[list[int]]
    confidences: list[list[float | None]]
    insides: list[list[float | None]]
    # Series that are left out.
    num_hidden: int


def heatmap_fields(view: fo.DatasetView) -> dict[str, dict[str, bool]]:
    """By name of each field with camflow's heatmaps: its measures (the numeric attributes), and whether each is a truth value."""
    schema = view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    found = {}
    for name, field in schema.items():
        attributes = {attribute.name: type(attribute) for attribute in field.fields}
        if all(mark in attributes for mark in MARKS):
            found[name] = {
                attribute: kind is fo.BooleanField
                for attribute, kind in attributes.items()
                if kind in (fo.FloatField, fo.IntField, fo.BooleanField)
            }
    return found


def names(view: fo.DatasetView) -> list[str]:
    """The measures of any of these fields."""
    found = dict.fromkeys(measure for kinds in heatmap_fields(view).values() for measure in kinds)
    # First what samples are best sorted by, last the score: it says how sure the model is, not where it looks.
    known = sorted(found, key=lambda measure: (measure == "score", measure != "energy_ratio"))
    known += [COUNTERFACTUALS] * bool(asked_fields(view)) + [ATTENTION] * bool(attention_fields(view))
    return [OUTCOME] * bool(evaluated_fields(view)) + known


def attention_fields(view: fo.DatasetView) -> list[str]:
    """The fields whose heatmaps say what they lie on."""
    schema = view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap)
    return [name for name in heatmap_fields(view) if any(one.name == ATTENTION for one in schema[name].fields)]


def attention(view: fo.DatasetView, most: int) -> Attention:
    """What the heatmaps of each field, or of each class in it, lie on; of so many of them at most."""
    fields = attention_fields(view)
    every = _series(view, fields)
    series = every[:most]
    totals: dict[str | None, int] = {}
    for counts in view.aggregate([fo.CountValues(f"{field}.{ATTENTION}.label") for field in fields]) if fields else []:
        for label, count in counts.items():
            totals[label] = totals.get(label, 0) + count
    labels: list[str | None] = sorted((label for label in totals if label is not None), key=lambda label: (-totals[label], label))
    labels = labels[:MAX_LABELS] + [None] * (None in totals)
    found = Attention(series, labels, [], [], [], len(every) - len(series))
    for one in series:
        parts = [_lying(one, label) for label in labels]
        numbers = one.of(view).aggregate(
            [
                aggregation(part.map(ViewField(key)))
                for part in parts
                for aggregation, key in ((fo.Count, "share"), (fo.Mean, "share"), (fo.Mean, "area"))
            ]
        )
        for kept, first in ((found.counts, 0), (found.shares, 1), (found.areas, 2)):
            kept.append(numbers[first::3])
    return found


def evaluated_fields(view: fo.DatasetView) -> list[str]:
    """The fields whose detections have heatmaps of their own, and outcomes of an evaluation."""
    schema = view.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Detections)
    fields = []
    for name, field in schema.items():
        inner = next((one.field for one in field.fields if one.name == "detections"), None)
        attributes = {one.name for one in [*field.fields, *getattr(inner, "fields", [])]}
        if attributes.issuperset((*MARKS, OUTCOME)):
            fields.append(name)
    counts = view.aggregate([fo.Count(f"{field}.detections.{OUTCOME}") for field in fields]) if fields else []
    return [field for field, count in zip(fields, counts, strict=True) if count]


def outcomes(view: fo.DatasetView, most: int) -> Outcomes:
    """What an evaluation found of the detections of each field; of so many of them at most."""
    found = []
    for field in evaluated_fields(view):
        parts = [ViewField(f"{field}.detections").filter(ViewField(OUTCOME) == kind) for kind in (RIGHT, *WRONG.values())]
        numbers = view.aggregate(
            [
                aggregation(part.map(ViewField(key)))
                for part in parts
                for aggregation, key in ((fo.Count, OUTCOME), (fo.Mean, "confidence"), (fo.Mean, "energy_inside"))
            ]
        )
        counts, confidences, insides = numbers[::3], numbers[1::3], numbers[2::3]
        # FiftyOne's mean of nothing is 0.
        found.append(
            (
                Series(field),
                counts,
                *([mean if n else None for n, mean in zip(counts, means, strict=True)] for means in (confidences, insides)),
            )
        )
    found.sort(key=lambda one: -sum(one[1][1:]))
    shown = found[:most]
    return Outcomes(
        series=[one[0] for one in shown],
        rights=[one[1][0] for one in shown],
        counts=[one[1][1:] for one in shown],
        confidences=[one[2][1:] for one in shown],
        insides=[one[3][1:] for one in shown],
        num_hidden=len(found) - len(shown),
    )


def wrong(view: fo.DatasetView, series: Series, kind: str) -> fo.DatasetView:
    """The detections of a kind of WRONG, those that the model is surest of first: as patches with their heatmaps, where camflow has saved
    how they are shown, else as samples with these detections alone."""
    dataset, field = view._root_dataset, series.field
    is_it = ViewField(OUTCOME) == WRONG[kind]
    saved = next((one for one in dataset._doc.saved_views if one.name == field), None)
    stages = [json.loads(stage) for stage in saved.view_stages] if saved else []
    if [stage["_cls"].rsplit(".", 1)[-1] for stage in stages] == ["ToPatches", "SetField"]:
        for stage in stages:
            # Those that FiftyOne keeps for the saved view are of all samples.
            arguments = [[name, None if name == "_state" else value] for name, value in stage["kwargs"]]
            view = view.add_stage(ViewStage._from_dict({**stage, "kwargs": arguments}))
        there = _match(view, series, ViewField(f"{field}.{OUTCOME}") == WRONG[kind], kind)
        return there.sort_by(f"{field}.confidence", reverse=True)
    of_it = ViewField(f"{field}.detections").filter(is_it)
    there = _match(view, series, of_it.length() > 0, kind).sort_by(of_it.map(ViewField("confidence")).max(), reverse=True)
    return there.filter_labels(field, is_it)


def asked_fields(view: fo.DatasetView) -> list[str]:
    """The fields with heatmaps of whose models somebody asked what they miss."""
    fields = [name for name, kinds in heatmap_fields(view).items() if RELIANCE in kinds]
    counts = view.aggregate([fo.Count(f"{field}.{CONFIDENCES[1]}") for field in fields]) if fields else []
    return [field for field, count in zip(fields, counts, strict=True) if count]


def confidences(view: fo.DatasetView, most: int) -> Confidences:
    """What the confidences of each field, or of each class in it, become where something is replaced; of so many of them at most."""
    found = []
    for series in _series(view, asked_fields(view)):
        path = f"{series.field}.{{}}".format
        asked = series.of(view).match(ViewField(path(CONFIDENCES[1])) >= 0)
        count, *means = asked.aggregate([fo.Count(path(CONFIDENCES[1])), *(fo.Mean(path(name)) for name in CONFIDENCES)])
        if count:
            # FiftyOne's mean of nothing is 0.
            attended = means[-1] if asked.count(path(CONFIDENCES[-1])) else None
            found.append((series, count, [*means[:-1], attended], _reliance(*means[:3])))
    found.sort(key=lambda one: -1.0 if one[3] is None else one[3], reverse=True)
    shown = found[:most]
    return Confidences(
        series=[one[0] for one in shown],
        counts=[one[1] for one in shown],
        means=[one[2] for one in shown],
        reliances=[one[3] for one in shown],
        num_hidden=len(found) - len(shown),
    )


def _reliance(confidence: float, without_object: float, without_background: float) -> float | None:
    costs = [max(0.0, confidence - left) for left in (without_object, without_background)]
    return costs[1] / sum(costs) if sum(costs) >= LEAST_COST else None


def _lying(series: Series, label: str | None) -> fo.ViewExpression:
    """The entries of a heatmap for this class: one, or none. A heatmap of zeros lies nowhere."""
    is_it = ViewField("label") == fo.ViewExpression.literal(label)
    return ViewField(f"{series.field}.{ATTENTION}").filter(is_it & (ViewField("share") >= 0))


def lying_on(view: fo.DatasetView, series: Series, label: str | None) -> fo.DatasetView:
    """The samples in whose images the class is."""
    return _match(view, series, _lying(series, label).length() > 0, f"attention on {label or 'no class'}")


def distributions(view: fo.DatasetView, measure: str) -> list[Distribution]:
    """How the measure is distributed over each field that has it, and over each class where a field holds several.

    All of a measure have the same bins.
    """
    fields = {name: kinds[measure] for name, kinds in heatmap_fields(view).items() if measure in kinds}
    series = _series(view, list(fields))
    logical = [one for one in series if fields[one.field]]
    numeric = [one for one in series if not fields[one.field]]
    found = {one: _logical(one, view, measure) for one in logical}
    bounds = view.aggregate([fo.Bounds(f"{one.field}.{measure}", safe=True) for one in numeric]) if numeric else []
    finite = [bound for pair in bounds for bound in pair if bound is not None]
    if finite:
        low, high = min(finite), max(finite)
        if low == high:
            # A bin needs a width; this one puts the only value into the middle.
            low, high = low - 0.5, high + 0.5
        # FiftyOne's histograms compare each value with all edges, one after the other: minutes, for a million samples.
        number = ((ViewField() - low) / ((high - low) / BINS)).floor()
        for one in numeric:
            counts = one.of(view).count_values(f"{one.field}.{measure}", expr=number)
            found[one] = _numeric(one, counts, np.linspace(low, high, BINS + 1))
    return [found[one] for one in series if one in found and found[one].size]


def _series(view: fo.DatasetView, fields: list[str]) -> list[Series]:
    if not fields:
        return []
    by_field = view.aggregate([fo.CountValues(f"{field}.target_class") for field in fields])
    series = []
    for field, counts in zip(fields, by_field, strict=True):
        # FiftyOne counts samples without the label as None.
        classes = sorted((name for name in counts if name is not None), key=lambda name: (-counts[name], name))
        several = classes[:MAX_CLASSES] if len(classes) > 1 else [None]
        series += [Series(field, name) for name in several]
    return series


def _logical(series: Series, view: fo.DatasetView, measure: str) -> Distribution:
    counts = series.of(view).count_values(f"{series.field}.{measure}")
    return Distribution(series, [-0.5, 0.5, 1.5], [counts.get(False, 0), counts.get(True, 0)], None)


def _numeric(series: Series, found: dict[float | None, int], edges: np.ndarray) -> Distribution:
    counts = np.zeros(BINS, int)
    for number, count in found.items():
        # None is a sample without a value, and the highest value lies on the last edge.
        if number is not None and np.isfinite(number):
            counts[min(int(number), BINS - 1)] += count
    bars = counts.reshape(BARS, -1).sum(axis=1)
    below = np.concatenate([[0], np.cumsum(counts)])
    # Between the edges of the bin in which the quantile lies.
    quantiles = np.interp(np.asarray(QUANTILES) * below[-1], below, edges) if below[-1] else None
    return Distribution(
        series,
        edges[:: BINS // BARS].tolist(),
        bars.tolist(),
        None if quantiles is None else quantiles.tolist(),
    )


def between(view: fo.DatasetView, series: Series, measure: str, low: float, high: float, last: bool) -> fo.DatasetView:
    """The samples whose heatmap measures from `low` up to `high`, which counts only in the `last` bin."""
    value = ViewField(f"{series.field}.{measure}")
    if heatmap_fields(view)[series.field][measure]:
        truth = high > 1
        return _match(view, series, value == truth, f"{measure} is {str(truth).lower()}")
    wanted = (value >= low) & ((value <= high) if last else (value < high))
    return _match(view, series, wanted, f"{measure} from {low:.4g} to {high:.4g}")


def extreme(view: fo.DatasetView, series: Series, measure: str, count: int, highest: bool) -> fo.DatasetView:
    """The `count` samples whose heatmaps measure least, or most, in this order."""
    path = f"{series.field}.{measure}"
    # Sorting puts samples without a value first.
    measured = _match(view, series, ViewField(path).exists(), f"by {measure}")
    return measured.sort_by(path, reverse=highest).limit(count)


def _match(view: fo.DatasetView, series: Series, wanted: fo.ViewExpression, comment: str) -> fo.DatasetView:
    condition = wanted if series.condition is None else series.condition & wanted
    return view.match({"$expr": condition.to_mongo(), "$comment": f"{COMMENT}{series.label}, {comment}"})


def is_narrowed(view: fo.DatasetView, base: fo.DatasetView) -> bool:
    """Whether a view is this base as it is, or what `between`, `extreme`, `lying_on` or `wrong` makes of it."""
    stages, below = (one._serialize(include_uuids=False) for one in (view, base))
    if stages[: len(below)] != below:
        return False
    # A view of patches has those before it elsewhere than others.
    added = [(stage["_cls"].rpartition(".")[2], dict(stage["kwargs"])) for stage in stages[len(below) :]]
    if not added:
        return True
    kinds = tuple(kind for kind, _ in added)
    if kinds not in MADE:
        return False
    wanted = added[kinds.index("Match")][1]["filter"]
    return isinstance(wanted, dict) and str(wanted.get("$comment")).startswith(COMMENT)
