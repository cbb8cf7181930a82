"""The operator that makes boxes and masks of heatmaps: `camflow localize` on what is open in the App."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fiftyone.operators as foo
from fiftyone.operators import types

from . import folders, form
from .asked import Asking, choices, table
from .measures import heatmap_fields

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext


class LocalizeHeatmaps(Asking):
    """Makes boxes and masks of stored heatmaps, and says how well these localize."""

    command, doing, button = "localize", "reading heatmaps", "Make labels"

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="localize_heatmaps",
            label="camflow: boxes and masks from heatmaps",
            description="Makes Detections or Segmentation labels of stored heatmaps, and measures how well these localize",
            icon="select_all",
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
        )

    def form(self, ctx: ExecutionContext, inputs: types.Object) -> None:
        fields = list(heatmap_fields(ctx.dataset.view()))
        if not fields:
            inputs.view("nothing", types.Error(label="The dataset has no heatmaps of camflow's: compute them first"))
            inputs.get_property("nothing").invalid = True
            return
        view = choices(types.AutocompleteView(allow_user_input=False), fields)
        described = "One for each class, such as those of one layer"
        inputs.list("fields", types.String(), required=True, label="Heatmaps", description=described, view=view)
        found = [(name, *form.kind_of(field)) for name, field in form.label_fields(ctx.dataset.get_field_schema())]
        places = [name for name, kind, is_list in found if kind in form.PLACES and not is_list]
        if places:
            inputs.enum(
                "truth",
                places,
                label="Where objects are",
                description="Labels on which a threshold is learnt for each class, and with which all is compared",
                view=choices(types.DropdownView(), places),
            )
        inputs.float(
            "threshold",
            min=0.01,
            max=1,
            label="Threshold",
            description="Share of a heatmap's highest value, in hundredths; empty: learnt",
        )
        inputs.str("boxes", label="Field for boxes", description="Gets Detections; empty: none")
        inputs.str("masks", label="Field for masks", description="Gets Segmentation; empty: none")
        described = "Empty: camflow's folder for this dataset, where its heatmaps have to be, too"
        inputs.str("out", label="Folder for the files of masks", description=described)
        inputs.bool("largest", default=False, label="The largest connected part of each heatmap alone")
        inputs.bool("replace", default=False, label="Replace labels that were made of other heatmaps, or by somebody else")

    def arguments(self, params: dict[str, Any]) -> tuple[list[str], list[str]]:
        flags = [f"--fields={','.join(params['fields'])}"]
        for name in ("truth", "boxes", "masks"):
            if value := (params.get(name) or "").strip():
                flags.append(f"--{name}={value}")
        if out := (params.get("out") or "").strip():
            flags.append(f"--out={folders.out(out)}")
        if params.get("threshold") is not None:
            flags.append(f"--threshold={params['threshold']}")
        return [*flags, *(f"--{name}" for name in ("largest", "replace") if params.get(name))], []

    def answer(self, ctx: ExecutionContext, numbers: dict[str, Any]) -> dict[str, Any]:
        head = ("heatmaps", "class", "threshold", "IoU", "IoU of samples that it was not learnt on", "MaxBoxAccV2", "PxAP")
        rows = [
            [
                one["field"] or "all",
                one["class"] or "",
                *(_number(one[name]) for name in ("threshold", "iou", "iou_cross_validated", "max_box_acc_v2", "px_ap")),
            ]
            for one in numbers["classes"]
        ]
        counts = {
            "written": numbers["num_written"],
            "up to date": numbers["num_up_to_date"],
            "withdrawn": numbers["num_withdrawn"],
            "kept, as camflow did not make them": numbers["num_kept"],
            "failed": numbers["num_failed"],
        }
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing was written"
        return {"summary": "\n".join([f"Labels: {said}.", "", table(head, rows) if rows else ""])}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
