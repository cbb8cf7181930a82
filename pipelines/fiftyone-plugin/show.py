"""The operator behind the button of a finished run: the samples that have its heatmaps, with these drawn over them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone import ViewField

from . import side_by_side

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

NAME = "show_heatmaps"
URI = f"@camflow/camflow/{NAME}"
# In `page.js`.
GROUP_FIELDS = "@camflow/camflow/group_fields"


class ShowHeatmaps(foo.Operator):
    """Shows the samples of a view that have heatmaps in some fields, and ticks one of these; or a saved view, with two fields side by side."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(name=NAME, label="camflow: show heatmaps", unlisted=True)

    def execute(self, ctx: ExecutionContext) -> dict[str, Any]:
        fields = ctx.params["fields"]
        if name := ctx.params.get("view"):
            ctx.ops.set_active_fields(ticks(ctx, fields[0]))
            ctx.ops.set_view(name=name)
            if ctx.params.get("beside"):
                ctx.ops.open_panel(side_by_side.NAME, layout="horizontal", state={"left": fields[0], "right": fields[1]})
            return {}
        view = fo.DatasetView._build(ctx.dataset, json.loads(ctx.params["stages"]))
        # The ticks first: the page of the view is loaded with those that there are.
        ctx.ops.set_active_fields(ticks(ctx, best(ctx, fields)))
        ctx.ops.set_view(with_heatmaps(view, fields))
        return {}


def with_heatmaps(view: fo.DatasetView, fields: list[str]) -> fo.DatasetView:
    """The samples that have a heatmap in one of the fields."""
    has_one = ViewField(fields[0]).exists()
    for field in fields[1:]:
        has_one |= ViewField(field).exists()
    return view.match(has_one)


def stages(view: fo.Dataset | fo.DatasetView) -> str:
    """A view as text: of what is no sample by itself (a patch, a frame), all of the dataset."""
    is_whole = isinstance(view, fo.Dataset) or view._is_generated
    return json.dumps([] if is_whole else view._serialize(include_uuids=False), default=str)


def heatmap_fields(ctx: ExecutionContext) -> list[str]:
    """The dataset's fields of heatmaps as they are now."""
    ctx.dataset.reload()
    return list(ctx.dataset.get_field_schema(ftype=fo.EmbeddedDocumentField, embedded_doc_type=fo.Heatmap))


def best(ctx: ExecutionContext, fields: list[str]) -> str:
    """The one to look at first: what camflow has ticked, where the dataset's settings are not the user's."""
    settings = ctx.dataset.app_config.active_fields
    return next((field for field in fields if settings and field in settings.paths), fields[-1])


def groups(ctx: ExecutionContext, fields: list[str]) -> list[dict[str, Any]]:
    """The groups that the dataset's settings have for these fields in the sidebar."""
    wanted = (
        (group.name, [field for field in fields if field in group.paths]) for group in ctx.dataset.app_config.sidebar_groups or []
    )
    return [{"name": name, "paths": paths} for name, paths in wanted if paths]


def ticks(ctx: ExecutionContext, field: str) -> list[str]:
    """The fields to tick: what the page shows, with one heatmap in the place of others, which it would lie on."""
    heatmaps = heatmap_fields(ctx)
    return [active for active in ctx.active_fields if active not in heatmaps] + [field]
