"""The panel with two heatmaps of the same sample beside each other: of the sample that is open, or of the first ones of the grid."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from . import overlays
from .measures import heatmap_fields
from .panel import choices

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from fiftyone.operators.executor import ExecutionContext

NAME = "side_by_side"
# Samples of the grid that are shown at a time.
ROWS = 8
# What is said of a heatmap, where its label has it.
SAID = (
    ("target_class", "{}"),
    ("confidence", "confidence {:.2f}"),
    ("energy_inside", "{:.0%} of its energy inside"),
    ("energy_ratio", "ratio {:.2f}"),
)

HELP = """
The photograph, and two of camflow's heatmaps over it: of the sample that is open, else of those that are selected in the grid, else of
the first ones of the view.

*Compare heatmaps* opens it with the fields that were compared, on the samples that changed most.
"""


# Open panels whose choices are kept.
MOST_PANELS = 1000


@dataclass
class _Chosen:
    """What a panel is to show. An event brings the panel's state as the page had it when it sent the event, which may be before a
    choice whose answer comes first, and the page sends changes of the view that are none: what was chosen is kept here."""

    left: str | None = None
    right: str | None = None
    first: int = 0
    # The view, selection and sample that it shows; none until it has shown any.
    beside: str | None = None


_panels: OrderedDict[str, _Chosen] = OrderedDict()


def _chosen(ctx: ExecutionContext) -> _Chosen:
    state = ctx.panel.get_state
    if ctx.panel_id not in _panels:
        _panels[ctx.panel_id] = _Chosen(first=state("first") or 0)
        while len(_panels) > MOST_PANELS:
            _panels.popitem(last=False)
    _panels.move_to_end(ctx.panel_id)
    chosen = _panels[ctx.panel_id]
    # A panel that is opened, or loaded again, may have its state some events later.
    chosen.left = chosen.left or state("left")
    chosen.right = chosen.right or state("right")
    return chosen


def _beside(ctx: ExecutionContext) -> str:
    return json.dumps([ctx.dataset.name, ctx.view._serialize(), ctx.selected, ctx.current_sample], default=str)


class SideBySidePanel(foo.Panel):
    """Two heatmap fields of the same samples."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name=NAME,
            label="Heatmaps side by side",
            icon="compare",
            category=Categories.ANALYZE,
            surfaces="grid modal",
            help_markdown=HELP,
        )

    def on_load(self, ctx: ExecutionContext) -> None:
        self._look(ctx)

    def on_change_dataset(self, ctx: ExecutionContext) -> None:
        self._look(ctx)

    def on_change_view(self, ctx: ExecutionContext) -> None:
        self._look(ctx)

    def on_change_current_sample(self, ctx: ExecutionContext) -> None:
        self._look(ctx)

    def on_change_selected(self, ctx: ExecutionContext) -> None:
        self._look(ctx)

    def on_left(self, ctx: ExecutionContext) -> None:
        _chosen(ctx).left = ctx.params["value"]
        self._look(ctx)

    def on_right(self, ctx: ExecutionContext) -> None:
        _chosen(ctx).right = ctx.params["value"]
        self._look(ctx)

    def on_refresh(self, ctx: ExecutionContext) -> None:
        ctx.dataset.reload()
        self._look(ctx)

    def on_next(self, ctx: ExecutionContext) -> None:
        _chosen(ctx).first += ROWS
        self._look(ctx)

    def on_back(self, ctx: ExecutionContext) -> None:
        _chosen(ctx).first = max(0, _chosen(ctx).first - ROWS)
        self._look(ctx)

    def on_open(self, ctx: ExecutionContext) -> None:
        ctx.ops.open_sample(id=ctx.params["id"])

    def _look(self, ctx: ExecutionContext) -> None:
        """Draws the rows, and keeps them."""
        chosen = _chosen(ctx)
        beside = _beside(ctx)
        if chosen.beside not in (None, beside):
            chosen.first = 0
        chosen.beside = beside
        fields = [*heatmap_fields(ctx.view)]
        left, right = pair(fields, chosen.left, chosen.right)
        rows, count = [], 0
        if left and right:
            view = _samples(ctx)
            count = view.count()
            # Of a sample only what is drawn: it may have hundreds of other fields.
            few = view.skip(chosen.first).limit(ROWS).select_fields([left, right])
            rows = [row(sample, left, right) for sample in few]
        pictures = {f"picture{number}": picture for number, (_, picture) in enumerate(rows)}
        # As one text: the page merges lists in the state element by element.
        told = json.dumps({"fields": fields, "count": count, "rows": [text for text, _ in rows]})
        shown = {"left": left, "right": right, "first": chosen.first, "drawn": told}
        ctx.panel.set_state({**shown, **dict.fromkeys(pictures)})
        ctx.ops.set_panel_data(pictures)

    def render(self, ctx: ExecutionContext) -> types.Property:
        panel = types.Object()
        inside = types.GridView(orientation="vertical", padding=2, gap=2)
        was: dict[str, Any] = json.loads(ctx.panel.get_state("drawn") or "{}")
        if not was.get("fields"):
            text = "There is no heatmap here. `camflow annotate`, or the operator *camflow: compute heatmaps*, makes them."
            panel.md(text, name="none")
            return types.Property(panel, view=inside)
        top = panel.h_stack("top", gap=2, align_y="center")
        events: tuple[tuple[str, str, Callable[[ExecutionContext], None]], ...]
        events = (("left", "Left", self.on_left), ("right", "Right", self.on_right))
        for name, label, event in events:
            view = choices(label, was["fields"])
            top.enum(name, view.values(), default=ctx.panel.get_state(name), view=view, on_change=event)
        top.btn("refresh", label="Refresh", icon="refresh", on_click=self.on_refresh)
        rows, count, first = was["rows"], was["count"], ctx.panel.get_state("first") or 0
        for number, (one, text) in enumerate(rows):
            panel.md(text, name=f"text{number}")
            shown = types.ImageView(width="100%", alt=text, operator=self.on_open, params={"id": one})
            panel.view(f"picture{number}", view=shown)
        if count > ROWS:
            bottom = panel.h_stack("bottom", gap=2, align_y="center")
            bottom.btn("back", label="Back", icon="navigate_before", on_click=self.on_back, disabled=not first)
            bottom.md(f"{first + 1:,} to {first + len(rows):,} of {count:,}", name="where")
            bottom.btn("next", label="Next", icon="navigate_next", on_click=self.on_next, disabled=first + ROWS >= count)
        return types.Property(panel, view=inside)


def pair(fields: list[str], left: str | None, right: str | None) -> tuple[str | None, str | None]:
    """The fields to show: those that were chosen where they are there, else the first and the last."""
    if not fields:
        return None, None
    return (left if left in fields else fields[0]), (right if right in fields else fields[-1])


def row(sample: fo.Sample, left: str, right: str) -> tuple[tuple[str, str], str | None]:
    """What the panel shows of a sample: its id and a text in Markdown, and an URL; none where the image cannot be read."""
    maps: list[np.ndarray | None] = []
    notes = [f"`{Path(sample.filepath).name}`"]
    for field in (left, right):
        label, found = sample[field], None
        if label is None:
            said = "no heatmap"
        else:
            said = ", ".join(_measured(label))
            try:
                found = overlays.levels(label)
            except overlays.MissingFileError as error:
                said = str(error)
        maps.append(found)
        notes.append(f"`{field}`: {said}")
    picture = None
    try:
        photo = overlays.photograph(sample.filepath, next((one for one in maps if one is not None), None))
        picture = overlays.in_a_row([photo, *(photo if one is None else overlays.overlay(photo, one) for one in maps)])
    except overlays.MissingFileError as error:
        notes.append(str(error))
    return (str(sample.id), " · ".join(notes)), picture


def _measured(label: fo.Heatmap) -> list[str]:
    there = ((text, label[name] if label.has_field(name) else None) for name, text in SAID)
    return [text.format(value) for text, value in there if value is not None]


def _samples(ctx: ExecutionContext) -> fo.DatasetView:
    """The open sample, else the selected ones, else all of the view. Of patches, the samples that they are of."""
    view = ctx.view
    chosen = [ctx.current_sample] if ctx.current_sample else ctx.selected
    if chosen:
        view = view.select(chosen, ordered=True)
    if not view._is_generated:
        return view
    return ctx.dataset.select(list(dict.fromkeys(view.values("sample_id"))), ordered=True)
