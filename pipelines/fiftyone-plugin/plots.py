"""The panel's figures, as Plotly takes them."""

from __future__ import annotations

from math import log2
from typing import Any

from .measures import CONFIDENCES, QUANTILES, RELIANCE, WRONG, Attention, Confidences, Distribution, Outcomes, Series

CONFIG = {"displayModeBar": False}
# Pixels.
HISTOGRAM_HEIGHT = 95
BOX_HEIGHT = 34
MARGIN = 60
CELL_HEIGHT = 44
NO_CLASS = "(no class)"
# From four times as much, or a quarter, on colours are full.
FULL = 2.0
# What the columns of the table of confidences are called, by attribute: a word a line.
COLUMNS = {name: name.removeprefix("confidence_").replace("_", "<br>") for name in (*CONFIDENCES, RELIANCE)}
# Likewise what is wrong.
KINDS = {kind: kind.replace(" ", "<br>") for kind in WRONG}
# The share of a histogram's height that its title takes.
GAP = 0.3
# Bars of truth values do not touch.
TRUTH_WIDTH = 0.8


def histograms(found: list[Distribution]) -> list[dict[str, Any]]:
    """One histogram above the other, with the same horizontal axis; their traces are in the order of the distributions."""
    traces = []
    for number, one in enumerate(found):
        lower, upper = one.edges[:-1], one.edges[1:]
        traces.append(
            {
                "type": "bar",
                "name": one.series.label,
                "x": [(a + b) / 2 for a, b in zip(lower, upper, strict=True)],
                "y": one.counts,
                "width": [(b - a) * (1 if one.quantiles else TRUTH_WIDTH) for a, b in zip(lower, upper, strict=True)],
                "hovertext": _intervals(one),
                "hovertemplate": "%{hovertext}<br>%{y} samples<extra></extra>",
                "yaxis": f"y{_axis(number)}",
            }
        )
    return traces


def histograms_layout(measure: str, labels: list[str], edges: list[float]) -> dict[str, Any]:
    """The layout that goes with it; `edges` are those that all histograms have."""
    count = len(labels)
    ticks = {"tickvals": [0, 1], "ticktext": ["false", "true"]} if is_truth(edges) else {}
    layout: dict[str, Any] = {
        "height": HISTOGRAM_HEIGHT * count + MARGIN,
        "margin": {"l": 50, "r": 10, "t": 10, "b": 40},
        "bargap": 0,
        "showlegend": False,
        "xaxis": {
            "title": {"text": measure},
            "anchor": f"y{_axis(count - 1)}",
            "range": [edges[0], edges[-1]],
            **ticks,
        },
        "annotations": [],
    }
    for number, label in enumerate(labels):
        top = 1 - number / count
        layout[f"yaxis{_axis(number)}"] = {
            "domain": [top - (1 - GAP) / count, top - GAP / count],
            "rangemode": "tozero",
            "nticks": 3,
        }
        layout["annotations"].append(
            {
                "text": label,
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": top - GAP / count,
                "yref": "paper",
                "yanchor": "bottom",
                "showarrow": False,
            }
        )
    return layout


def boxes(found: list[Distribution]) -> list[dict[str, Any]]:
    """A box from the quantiles of each; the whiskers end at the outer ones."""
    names = ("lowerfence", "q1", "median", "q3", "upperfence")
    return [
        {
            "type": "box",
            "orientation": "h",
            "name": one.series.label,
            "y": [one.series.label],
            **{name: [value] for name, value in zip(names, one.quantiles, strict=True)},
        }
        for one in found
        if one.quantiles is not None
    ]


def boxes_layout(measure: str, labels: list[str], edges: list[float]) -> dict[str, Any]:
    """The layout that goes with it."""
    low, high = (f"{share:.0%}" for share in (QUANTILES[0], QUANTILES[-1]))
    return {
        "height": BOX_HEIGHT * len(labels) + MARGIN,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
        "showlegend": False,
        "xaxis": {"title": {"text": f"{measure} ({low}, quartiles, {high})"}, "range": [edges[0], edges[-1]]},
        # The first one on top, as in the histograms.
        "yaxis": {"autorange": "reversed", "automargin": True},
    }


def _table(
    columns: list[str],
    series: list[Series],
    values: list[list[float | None]],
    texts: list[list[str]],
    *,
    hover: tuple[str, list[list[str]]],
    scale: tuple[float, float, list[list[Any]]],
) -> list[dict[str, Any]]:
    """A table of series by columns: fields coloured by their value between two, with a text in each and one under the pointer."""
    template, hovers = hover
    low, high, colours = scale
    return [
        {
            "type": "heatmap",
            "x": columns,
            "y": [one.label for one in series],
            "z": values,
            "text": texts,
            "texttemplate": "%{text}",
            "hovertext": hovers,
            "hovertemplate": template,
            "zmin": low,
            "zmax": high,
            "colorscale": colours,
            "textfont": {"color": "#1c2024"},
            "showscale": False,
            "xgap": 1,
            "ygap": 1,
        }
    ]


def attention(found: Attention) -> list[dict[str, Any]]:
    """A heatmap of explained classes by labelled ones: coloured by the ratio of energy and area."""
    ratios = [
        [share / area if count and area else None for count, share, area in zip(*row, strict=True)]
        for row in zip(found.counts, found.shares, found.areas, strict=True)
    ]
    texts, hovers = [], []
    for counts, shares, areas, row in zip(found.counts, found.shares, found.areas, ratios, strict=True):
        cells = list(zip(counts, shares, areas, row, strict=True))
        texts.append(["" if ratio is None else f"{share:.0%}<br>\u00d7{ratio:.1f}" for _, share, _, ratio in cells])
        hovers.append(
            [
                "" if ratio is None else f"{share:.1%} of the heatmap on {area:.1%} of the area<br>{count} samples"
                for count, share, area, ratio in cells
            ]
        )
    return _table(
        label_names(found.labels),
        found.series,
        [[None if ratio is None else log2(max(ratio, 2**-FULL)) for ratio in row] for row in ratios],
        texts,
        hover=("%{y} on %{x}<br>%{hovertext}<extra></extra>", hovers),
        scale=(-FULL, FULL, [[0, "#5aa2e0"], [0.5, "#f4f4f4"], [1, "#ef7a54"]]),
    )


def outcomes(found: Outcomes) -> list[dict[str, Any]]:
    """A table of series by what is wrong: how many, coloured by their share of all, with the mean confidence."""
    rows, texts, hovers = [], [], []
    for right, counts, confidences, insides in zip(found.rights, found.counts, found.confidences, found.insides, strict=True):
        cells = list(zip(counts, confidences, insides, strict=True))
        rows.append([count / (count + right) if count else None for count in counts])
        texts.append([f"{count}<br>{_said(confidence)}" if count else "" for count, confidence, _ in cells])
        hovers.append(
            [
                f"{count} of {count + right}<br>mean confidence {_said(confidence)}<br>mean energy inside {_said(inside)}"
                for count, confidence, inside in cells
            ]
        )
    return _table(
        list(KINDS.values()),
        found.series,
        rows,
        texts,
        hover=("%{y}, %{x}: %{hovertext}<extra></extra>", hovers),
        scale=(0, 1, [[0, "#f4f4f4"], [1, "#ef7a54"]]),
    )


def outcomes_layout(labels: list[str]) -> dict[str, Any]:
    """The layout that goes with it, for series of these names."""
    layout = confidences_layout(labels)
    return {**layout, "xaxis": {**layout["xaxis"], "title": {"text": "count, confidence"}}}


def _said(number: float | None) -> str:
    return "unknown" if number is None else f"{number:.2f}"


def confidences(found: Confidences) -> list[dict[str, Any]]:
    """A table of series by what is replaced, in colours: the mean confidences, and the reliance on context."""
    rows = [[*means, reliance] for means, reliance in zip(found.means, found.reliances, strict=True)]
    return _table(
        list(COLUMNS.values()),
        found.series,
        rows,
        [["" if value is None else f"{value:.2f}" for value in row] for row in rows],
        hover=(
            "%{y}, %{x}: %{text}<br>%{hovertext}<extra></extra>",
            [[f"{count} samples"] * len(COLUMNS) for count in found.counts],
        ),
        scale=(0, 1, [[0, "#f4f4f4"], [1, "#5aa2e0"]]),
    )


def confidences_layout(labels: list[str]) -> dict[str, Any]:
    """The layout that goes with it, for series of these names."""
    return {
        **attention_layout(labels),
        "xaxis": {"type": "category", "automargin": True, "tickangle": 0, "tickfont": {"size": 10}},
    }


def label_names(labels: list[str | None]) -> list[str]:
    """What labelled classes are called in the plot."""
    return [NO_CLASS if label is None else label for label in labels]


def attention_layout(labels: list[str]) -> dict[str, Any]:
    """The layout that goes with it, for series of these names."""
    return {
        "height": CELL_HEIGHT * len(labels) + 2 * MARGIN,
        "margin": {"l": 10, "r": 10, "t": 10, "b": 40},
        # Names, whatever they look like.
        "xaxis": {
            "type": "category",
            "automargin": True,
            "title": {"text": "share of the heatmap, and how many times its share of the area"},
        },
        "yaxis": {"type": "category", "autorange": "reversed", "automargin": True},
    }


def is_truth(edges: list[float]) -> bool:
    """Whether the histogram is one of truth values, which have no quantiles."""
    return len(edges) == 3


def _axis(number: int) -> str:
    # Plotly's first axis has no number.
    return str(number + 1) if number else ""


def _intervals(one: Distribution) -> list[str]:
    if one.quantiles is None:
        return ["false", "true"]
    return [f"{low:.4g} to {high:.4g}" for low, high in zip(one.edges[:-1], one.edges[1:], strict=True)]
