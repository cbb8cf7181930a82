"""The operator that computes heatmaps: `camflow annotate` on what is open in the App."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import fiftyone as fo
import fiftyone.operators as foo
from fiftyone.operators import types

from . import form, program, show
from ._camflow.collection import selection
from ._camflow.ledger import Ledger
from ._camflow.process import Run

if TYPE_CHECKING:
    from fiftyone.operators.executor import ExecutionContext

# What starts a run: the program, its arguments, and files by flag.
Command = tuple[str, list[str], dict[str, str]]

# Seconds between two looks at the run, and at whether anybody still waits for it.
BEAT = 1.0
# Seconds between two updates of the progress bar.
SHOW_EVERY = 0.5
# Failed samples that are shown; the run's summary counts all.
SHOWN_FAILURES = 5


class ComputeHeatmaps(foo.Operator):
    """Computes heatmaps for the dataset, the current view or the selected samples."""

    @property
    def config(self) -> foo.OperatorConfig:
        return foo.OperatorConfig(
            name="compute_heatmaps",
            label="camflow: compute heatmaps",
            description="Class-activation heatmaps (the Grad-CAM family) for the dataset, the view or the selection",
            icon="local_fire_department",
            dynamic=True,
            execute_as_generator=True,
            allow_immediate_execution=True,
            allow_delegated_execution=True,
        )

    def resolve_placement(self, ctx: ExecutionContext) -> types.Placement:
        button = types.Button(label="Compute heatmaps (camflow)", icon="local_fire_department", prompt=True)
        return types.Placement(types.Places.SAMPLES_GRID_SECONDARY_ACTIONS, button)

    def resolve_input(self, ctx: ExecutionContext) -> types.Property:
        return form.build(ctx)

    def resolve_output(self, ctx: ExecutionContext) -> types.Property | None:
        # In the App, the run has shown its result itself, in place of its progress.
        return summary_property(ctx.results) if ctx.results else None

    def execute(self, ctx: ExecutionContext) -> dict[str, Any] | AsyncIterator[Any]:
        # What is wrong with these is an error of the operator itself, and not one in the middle of a stream.
        command = program.find(), form.arguments(ctx), samples(ctx)
        return delegated(ctx, command) if ctx.delegated else immediate(ctx, command)


def samples(ctx: ExecutionContext) -> dict[str, str]:
    """Which samples, as files for `camflow`: flag to content; none for all of the dataset."""
    chosen = ctx.target_view()
    if isinstance(chosen, fo.Dataset):
        return {}
    if chosen.media_type == fo.core.media.GROUP:
        chosen = ctx.flatten_group_slices(chosen, media_type="image")
    return selection(chosen, of_labels=ctx.params["target"].startswith(("labels", "wrong")))


def delegated(ctx: ExecutionContext, command: Command) -> dict[str, Any]:
    """Runs to the end, with the progress kept in the delegated operation."""
    ledger = Ledger(SHOWN_FAILURES)
    with closing(program.start(*command)) as run:
        for label, progress in watch(run, ledger):
            ctx.set_progress(progress=progress, label=label)
        ledger.check(run)
    return result(ctx, ledger)


async def immediate(ctx: ExecutionContext, command: Command) -> AsyncIterator[Any]:
    """Runs to the end, with the progress in the App. Closing the page ends the run.

    The server then cancels the task that waits here. To a plain generator it would only drop its references, and when
    that is collected nobody knows.
    """
    ledger = Ledger(SHOWN_FAILURES)
    before = show.heatmap_fields(ctx)
    with closing(program.start(*command)) as run:
        steps = watch(run, ledger)
        while step := await asyncio.to_thread(next, steps, None):
            label, progress = step
            yield ctx.ops.set_progress(label=label, progress=progress)
    yield ctx.ops.reload_dataset()
    after = show.heatmap_fields(ctx)
    # A page that is open keeps its ticks and its groups of fields, whatever the dataset's settings become.
    if new := [field for field in after if field not in before]:
        yield ctx.ops.set_active_fields(show.ticks(ctx, show.best(ctx, new)))
        if groups := show.groups(ctx, new):
            yield ctx.trigger(show.GROUP_FIELDS, {"groups": groups})
    try:
        ledger.check(run)
    except program.CamflowError as error:
        # Raised in the middle of a stream, an error would reach the page as a lost connection, without its text.
        if not program.is_streamed(ctx):
            raise
        yield ctx.ops.show_output(*program.told(error))
        return
    results = result(ctx, ledger)
    yield ctx.ops.show_output(summary_property(results).to_json(), results)


def summary_property(results: dict[str, Any]) -> types.Property:
    """How a result is shown."""
    outputs = types.Object()
    outputs.str("summary", label="Heatmaps", view=types.MarkdownView())
    if results["fields"]:
        params = {name: results[name] for name in ("fields", "stages")}
        outputs.btn("show", label="Show", icon="visibility", variant="contained", on_click=show.URI, params=params)
    return types.Property(outputs)


def watch(run: Run, ledger: Ledger) -> Iterator[tuple[str, float]]:
    """Feeds the ledger, and yields a label and a fraction for the progress bar, at least once in two beats."""
    shown = 0.0
    for event in run.events(BEAT):
        if event:
            ledger.take(event)
        if event is None or time.monotonic() - shown >= SHOW_EVERY:
            shown = time.monotonic()
            yield ledger.progress()
    yield ledger.progress()


def result(ctx: ExecutionContext, ledger: Ledger) -> dict[str, Any]:
    """The counts, a summary in words, and what there is to show."""
    lines = [f"- {line}" for line in ledger.details()]
    there = show.heatmap_fields(ctx)
    return {
        **ledger.counts(),
        "summary": "\n".join([ledger.headline(), "", *lines]),
        "fields": [field for field in ledger.fields if field in there],
        "stages": show.stages(ctx.target_view()),
    }
