"""The operator that compares two sets of heatmaps: `camflow compare` on what is open in the App."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fiftyone.operators as foo
from fiftyone.operators import types

from .asked import Asking, choices, table
from .measures import heatmap_fields

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

# What samples can be ranked by, in the order of `camflow compare`; a test compares.
MEASURES = (
    *("energy_inside", "energy_ratio", "pointing_hit", "best_iou", "best_threshold", "center_offset", "object_area", "entropy"),
    *("rank_correlation", "confidence", "confidence_drop", "confidence_increase", "deletion_auc", "insertion_auc", "road"),
    *("confidence_without_object", "confidence_without_background", "confidence_without_attended", "context_reliance", "correct"),
)
# The saved view, unless somebody names another.
VIEW = "camflow comparison"


class CompareHeatmaps(Asking):
    """Compares two models, runs or methods on the same samples, and saves a view of what changed most."""

    command, doing, button, writes_page = "compare", "reading heatmaps of A and B", "Compare", True

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="compare_heatmaps",
            label="camflow: compare heatmaps",
            description="Two models, runs or methods on the same samples: differences with intervals, and what changed most",
            icon="compare",
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
        )

    def form(self, ctx: ExecutionContext, inputs: types.Object) -> None:
        there = [*heatmap_fields(ctx.dataset.view()), *ctx.dataset.list_runs(method="camflow")]
        if len(there) < 2:  # noqa: PLR2004
            inputs.view("nothing", types.Error(label="Two heatmap fields or runs are needed: compute heatmaps first"))
            inputs.get_property("nothing").invalid = True
            return
        either = "A heatmap field, several with `*` for what is the same in the other, or a run"
        for name, label in (("a", "A"), ("b", "B")):
            view = choices(types.AutocompleteView(allow_user_input=True), there)
            inputs.str(name, required=True, label=label, description=either, view=view)
        view = choices(types.DropdownView(), MEASURES)
        inputs.enum("by", list(MEASURES), default=MEASURES[0], label="Rank samples by", view=view)
        described = "The samples that changed most, those first; it replaces that of an earlier comparison. Empty: none"
        inputs.str("save_view", default=VIEW, label="Saved view", description=described)

    def arguments(self, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        flags = [f"--by={params.get('by') or MEASURES[0]}"]
        if name := (params.get("save_view") or "").strip():
            flags.append(f"--save-view={name}")
        return flags, [params["a"], params["b"]]

    def answer(self, ctx: ExecutionContext, numbers: dict[str, Any]) -> dict[str, Any]:
        rows = [_row(*one) for one in numbers["measures"].items()]
        said = [f"- {finding['text']}" for finding in numbers["findings"]]
        maps = numbers["maps"]["overlap"]
        overlap = f", whose heatmaps overlap by {maps['mean']:.2f} on average" if maps and maps.get("num") else ""
        lines = [
            f"A is `{numbers['a']}`, B is `{numbers['b']}`: {numbers['num_pairs']:,} pairs of {numbers['num_samples']:,} samples{overlap}",
            "",
            table(("", "A", "B", "difference", "95 %", ""), rows),
            "",
            *said,
        ]
        shown = dict.fromkeys(field for one in numbers["series"] for field in (one["a"]["field"], one["b"]["field"]))
        view = (ctx.params.get("save_view") or "").strip()
        there = (
            {"show": {"view": view, "fields": [*shown], "beside": len(shown) > 1}}
            if view and ctx.dataset.has_saved_view(view)
            else {}
        )
        return {"summary": "\n".join(lines), **there}


def _row(measure: str, found: dict[str, Any]) -> list[str]:
    interval = found["interval"]
    return [
        measure,
        f"{found['mean_a']:.3f}",
        f"{found['mean_b']:.3f}",
        f"{found['difference']:+.3f}",
        f"{interval[0]:+.3f} to {interval[1]:+.3f}" if interval else "",
        ("differs, by little" if found["is_small"] else "differs") if found["is_clear"] else "",
    ]
