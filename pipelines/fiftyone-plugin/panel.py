"""The panel with plots of what the heatmaps of the current view measure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types
from fiftyone.operators.categories import Categories

from . import measures, plots

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

# Samples of `lowest` and `highest`, until somebody asks for more or fewer.
COUNT = 20
# Plots of more are not read.
MAX_SERIES = 24

HELP = """
How the measures of camflow's heatmaps are distributed over the samples of the current view, for each heatmap field,
and for each class where a field holds several.

Of heatmaps that were made with `--attention-on`, *attention* shows on which labelled classes they lie.
Of those that were made with `--counterfactuals`, *counterfactuals* shows the model's mean confidence in the images as they are, without
the object, without the background, and without the most attended region outside of the object; those that lean on context most come first.

Of detections that were explained with `--per-detection --eval-key`, *outcome* counts the false positives and the missed objects that
an evaluation of FiftyOne's found, with the mean confidence of the model; a click shows them with their heatmaps, the surest first.

Click a bar, or a field of these tables, to see its samples; *show all* goes back.
"""


class MeasuresPanel(foo.Panel):
    """Distributions of measures, and the samples behind them."""

    @property
    def config(self) -> foo.PanelConfig:
        return foo.PanelConfig(
            name="measures",
            label="Heatmap measures",
            icon="insights",
            category=Categories.ANALYZE,
            surfaces="grid",
            help_markdown=HELP,
        )

    def on_load(self, ctx: ExecutionContext) -> None:
        self._look(ctx, ctx.view)

    def on_change_dataset(self, ctx: ExecutionContext) -> None:
        self._look(ctx, ctx.view)

    def on_change_view(self, ctx: ExecutionContext) -> None:
        # What the panel itself has narrowed the grid to leaves the plots as they are. The view says so, not the panel's state: a
        # page sets both at once, and may tell of the new view with the old state.
        if not measures.is_narrowed(ctx.view, drawn(ctx).view(ctx)):
            self._look(ctx, ctx.view)

    def on_refresh(self, ctx: ExecutionContext) -> None:
        self._look(ctx, ctx.view)

    def on_measure(self, ctx: ExecutionContext) -> None:
        ctx.panel.set_state("measure", ctx.params["value"])
        self._look(ctx, drawn(ctx).view(ctx))

    def on_series(self, ctx: ExecutionContext) -> None:
        ctx.panel.set_state("series", ctx.params["value"])

    def on_count(self, ctx: ExecutionContext) -> None:
        ctx.panel.set_state("count", ctx.params["value"])

    def on_bar(self, ctx: ExecutionContext) -> None:
        was = drawn(ctx)
        bar = ctx.params["idx"]
        view = measures.between(
            *(was.view(ctx), was.series[ctx.params["trace_idx"]], was.measure),
            *(was.edges[bar], was.edges[bar + 1], bar + 2 == len(was.edges)),
        )
        ctx.ops.set_view(view=view)

    def on_cell(self, ctx: ExecutionContext) -> None:
        was = drawn(ctx)
        series = next(one for one in was.series if one.label == ctx.params["y"])
        if was.measure == measures.OUTCOME:
            kind = next(kind for kind, column in plots.KINDS.items() if column == ctx.params["x"])
            ctx.ops.set_view(view=measures.wrong(was.view(ctx), series, kind))
            return
        if was.measure == measures.COUNTERFACTUALS:
            name = next(name for name, column in plots.COLUMNS.items() if column == ctx.params["x"])
            # The lowest confidences, and those that lean on context most.
            view = measures.extreme(was.view(ctx), series, name, COUNT, highest=name == measures.RELIANCE)
            ctx.ops.set_view(view=view)
            return
        label = was.labels[plots.label_names(was.labels).index(ctx.params["x"])]
        ctx.ops.set_view(view=measures.lying_on(was.view(ctx), series, label))

    def on_lowest(self, ctx: ExecutionContext) -> None:
        self._extreme(ctx, highest=False)

    def on_highest(self, ctx: ExecutionContext) -> None:
        self._extreme(ctx, highest=True)

    def on_all(self, ctx: ExecutionContext) -> None:
        ctx.ops.set_view(view=drawn(ctx).view(ctx))

    def _extreme(self, ctx: ExecutionContext, *, highest: bool) -> None:
        was = drawn(ctx)
        # An emptied number is none.
        count = max(1, int(ctx.panel.get_state("count") or COUNT))
        series = next(one for one in was.series if one.label == was.chosen(ctx))
        ctx.ops.set_view(view=measures.extreme(was.view(ctx), series, was.measure, count, highest))

    def _look(self, ctx: ExecutionContext, view: fo.DatasetView) -> None:
        """Asks the database, and keeps what there is to draw."""
        names = measures.names(view)
        measure = ctx.panel.get_state("measure")
        if measure not in names:
            measure = names[0] if names else ""
        lying = measures.attention(view, MAX_SERIES) if measure == measures.ATTENTION else None
        asked = measures.confidences(view, MAX_SERIES) if measure == measures.COUNTERFACTUALS else None
        wrong = measures.outcomes(view, MAX_SERIES) if measure == measures.OUTCOME else None
        table = lying or asked or wrong
        found = measures.distributions(view, measure) if measure and table is None else []
        shown = found[:MAX_SERIES]
        look = Drawn(
            base=json.dumps(view._serialize(include_uuids=False), default=str),
            names=names,
            measure=measure,
            edges=shown[0].edges if shown else [],
            series=[one.series for one in shown] if table is None else table.series,
            labels=[] if lying is None else lying.labels,
            num_hidden=len(found) - len(shown) if table is None else table.num_hidden,
        )
        figures = {
            "histograms": plots.histograms(shown),
            "boxes": plots.boxes(shown),
            "attention": [] if lying is None else plots.attention(lying),
            "counterfactuals": [] if asked is None else plots.confidences(asked),
            "outcome": [] if wrong is None else plots.outcomes(wrong),
        }
        # The page copies figures into the state, and merges those there with new ones element by element.
        ctx.panel.set_state({"drawn": look.to_json(), **dict.fromkeys(figures)})
        ctx.ops.set_panel_data(figures)

    def render(self, ctx: ExecutionContext) -> types.Property:
        panel = types.Object()
        was = drawn(ctx)
        if not was.names:
            text = (
                "No heatmap field here holds a measure. `camflow annotate`, or the operator *camflow: compute heatmaps*, "
                "makes such fields."
            )
            panel.md(text, name="none")
            panel.btn("refresh", label="Refresh", icon="refresh", on_click=self.on_refresh)
            return types.Property(panel, view=types.GridView(orientation="vertical", padding=2))
        labels = [one.label for one in was.series]
        top = panel.h_stack("top", gap=2, align_y="center")
        by = choices("Measure", was.names)
        top.enum("measure", by.values(), default=was.measure, view=by, on_change=self.on_measure)
        top.btn("refresh", label="Refresh", icon="refresh", on_click=self.on_refresh)
        top.btn("all", label="Show all", icon="grid_view", on_click=self.on_all)
        if not was.series:
            panel.md(f"No heatmap of this view has `{was.measure}`.", name="none")
            return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=2))
        if was.num_hidden:
            panel.md(f"*{was.num_hidden} more are not shown.*", name="hidden")
        if was.measure == measures.OUTCOME:
            panel.plot("outcome", layout=plots.outcomes_layout(labels), config=plots.CONFIG, on_click=self.on_cell)
            return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=2))
        if was.measure == measures.ATTENTION:
            panel.plot("attention", layout=plots.attention_layout(labels), config=plots.CONFIG, on_click=self.on_cell)
            return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=2))
        if was.measure == measures.COUNTERFACTUALS:
            layout = plots.confidences_layout(labels)
            panel.plot("counterfactuals", layout=layout, config=plots.CONFIG, on_click=self.on_cell)
            return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=2))
        samples = panel.h_stack("samples", gap=2, align_y="center")
        of = choices("Samples by", labels)
        samples.enum("series", of.values(), default=was.chosen(ctx), view=of, on_change=self.on_series)
        samples.int("count", min=1, default=COUNT, label="How many", on_change=self.on_count)
        samples.btn("lowest", label="Lowest", icon="south", on_click=self.on_lowest)
        samples.btn("highest", label="Highest", icon="north", on_click=self.on_highest)
        axes = was.measure, labels, was.edges
        if not plots.is_truth(was.edges):
            panel.plot("boxes", layout=plots.boxes_layout(*axes), config=plots.CONFIG)
        panel.plot("histograms", layout=plots.histograms_layout(*axes), config=plots.CONFIG, on_click=self.on_bar)
        return types.Property(panel, view=types.GridView(orientation="vertical", padding=2, gap=2))


@dataclass
class Drawn:
    """What the plots show: one text in the panel's state, which the page sends along with every event."""

    # The view's stages, as text.
    base: str = "[]"
    names: list[str] = field(default_factory=list)
    # Empty where there is none to draw.
    measure: str = ""
    # Of the bars, the same for all series.
    edges: list[float] = field(default_factory=list)
    series: list[measures.Series] = field(default_factory=list)
    num_hidden: int = 0
    # Of attention, the labelled classes.
    labels: list[str | None] = field(default_factory=list)

    def to_json(self) -> str:
        """It as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Drawn:
        """It, from the text."""
        content = json.loads(text)
        return cls(**{**content, "series": [measures.Series(**one) for one in content["series"]]})

    def view(self, ctx: ExecutionContext) -> fo.DatasetView:
        """The view that the plots are of."""
        return fo.DatasetView._build(ctx.dataset, json.loads(self.base))

    def chosen(self, ctx: ExecutionContext) -> str:
        """The series that `lowest` and `highest` go by."""
        labels = [one.label for one in self.series]
        label: str | None = ctx.panel.get_state("series")
        return label if label in labels else labels[0]


def drawn(ctx: ExecutionContext) -> Drawn:
    """What the plots show now."""
    text = ctx.panel.get_state("drawn")
    return Drawn.from_json(text) if text else Drawn()


def choices(label: str, values: list[str]) -> types.DropdownView:
    """A list to choose from."""
    view = types.DropdownView(label=label)
    for value in values:
        view.add_choice(value, label=value)
    return view
